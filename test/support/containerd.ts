import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Digest } from '../../src/oci/digest.ts';
import type { LayoutImage } from './images.ts';
import { run, type StartedProcess, start } from './processes.ts';

/** Where layers are unpacked: each into a copy of what is below it, or into a directory that overlayfs lays over it. */
export type Snapshotter = 'native' | 'overlayfs';

/** What mount(2) takes, in containerd's spelling. */
interface Mount {
  readonly Type: string;
  readonly Source: string;
  readonly Options: readonly string[];
}

/** A containerd of our own, which unpacks images to compare with. Needs `root`, `containerd` and `ctr`. */
export class Containerd {
  readonly #directory: string;
  readonly #process: StartedProcess;
  #unpacked = 0;

  private constructor(directory: string, process: StartedProcess) {
    this.#directory = directory;
    this.#process = process;
  }

  /** Starts it with all its files in `directory`, whose path is short: sockets stand in it. */
  static async start(directory: string): Promise<Containerd> {
    mkdirSync(directory, { recursive: true });
    const config = join(directory, 'config.toml');
    // The services of Kubernetes would only look for what is not there. Garbage is kept: its collection takes along
    // views that nothing refers to.
    writeFileSync(
      config,
      `version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "${directory}/containerd.sock"
[plugins."io.containerd.gc.v1.scheduler"]
  deletion_threshold = 0
  mutation_threshold = 1000000
`,
    );
    const started = await start('containerd', ['--config', config], {
      logPath: join(directory, 'containerd.log'),
      // pigz, where it is installed, reads on over garbage that Go's own reader refuses.
      env: { CONTAINERD_DISABLE_PIGZ: '1' },
      readyWhen: async () => {
        await ctr(directory, ['version']);
        return true;
      },
    });
    return new Containerd(directory, started);
  }

  /**
   * Unpacks an image and gives the path of its root to `use`. Rejects with what `ctr` says if containerd refuses the
   * image.
   *
   * @param chainId of all its layers together
   */
  async withUnpacked<T>(
    image: LayoutImage,
    chainId: Digest,
    snapshotter: Snapshotter,
    use: (root: string) => Promise<T>,
  ): Promise<T> {
    const name = `judged/${++this.#unpacked}`;
    const work = join(this.#directory, String(this.#unpacked));
    const archive = `${work}.tar`;
    const root = `${work}.root`;
    const snapshots = ['snapshots', '--snapshotter', snapshotter];
    await run('tar', ['-cf', archive, '-C', image.layout, '.']);
    mkdirSync(root);
    try {
      await this.#ctr('images', 'import', '--snapshotter', snapshotter, '--base-name', name, archive);
      const mounts = await this.#ctr(...snapshots, 'view', '--mounts', name, chainId);
      const [mount] = JSON.parse(mounts) as Mount[];
      if (mount === undefined) throw new Error(`the ${snapshotter} snapshotter has no mount for ${name}`);
      const { Type: type, Source: source, Options: options } = mount;
      await run('mount', [...(type === 'bind' ? [] : ['-t', type]), '-o', options.join(','), source, root]);
      try {
        return await use(root);
      } finally {
        await run('umount', [root]);
      }
    } finally {
      rmSync(archive);
      rmSync(root, { recursive: true });
    }
  }

  /**
   * Pulls `HOST:PORT/REPOSITORY:TAG` over http and unpacks it, as if nothing had been pulled before. Rejects with what
   * `ctr` says if containerd refuses the image.
   */
  async pull(reference: string): Promise<void> {
    // Namespaces share no layers that are unpacked already.
    const namespace = `pull-${++this.#unpacked}`;
    const flags = ['--plain-http', '--snapshotter', 'native', '--platform', 'linux/amd64'];
    await this.#ctr('--namespace', namespace, 'images', 'pull', ...flags, reference);
  }

  async stop(): Promise<void> {
    await this.#process.stop();
  }

  #ctr(...args: string[]): Promise<string> {
    return ctr(this.#directory, args);
  }
}

async function ctr(directory: string, args: readonly string[]): Promise<string> {
  const { stdout } = await run('ctr', ['--address', join(directory, 'containerd.sock'), ...args]);
  return stdout;
}

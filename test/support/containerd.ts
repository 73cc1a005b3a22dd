import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Digest } from '../../src/oci/digest.ts';
import type { LayoutImage } from './images.ts';
import { NOWHERE } from './nowhere.ts';
import { run, type StartedProcess, start } from './processes.ts';

/** Where layers are unpacked: each into a copy of what is below it, or into a directory that overlayfs lays over it; or ours. */
export type Snapshotter = 'native' | 'overlayfs' | 'dadi';

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

  /**
   * Starts it with all its files in `directory`, whose path is short: sockets stand in it.
   * @param dadiSocketPath where the snapshotter `dadi` listens, if there is one
   */
  static async start(directory: string, dadiSocketPath?: string): Promise<Containerd> {
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
[plugins."io.containerd.metadata.v1.bolt"]
  # What one namespace has, others fetch all the same.
  content_sharing_policy = "isolated"
[plugins."io.containerd.gc.v1.scheduler"]
  deletion_threshold = 0
  mutation_threshold = 1000000
${
  dadiSocketPath === undefined
    ? ''
    : `[proxy_plugins.dadi]
  type = "snapshot"
  address = "${dadiSocketPath}"
`
}`,
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
    await run('tar', ['-cf', archive, '-C', image.layout, '.']);
    mkdirSync(root);
    try {
      await this.#ctr('images', 'import', '--snapshotter', snapshotter, '--base-name', name, archive);
      return await this.#withView('default', snapshotter, name, chainId, root, use);
    } finally {
      rmSync(archive);
      rmSync(root, { recursive: true });
    }
  }

  /**
   * Pulls `REGISTRY/REPOSITORY:TAG` or `…@DIGEST` by way of the hosts that a directory of hosts.toml files names, and
   * unpacks it.
   *
   * @param options.namespace what is in one namespace is not in others
   * @param options.platform all if left out
   */
  async pullByHosts(
    hostsDirectory: string,
    reference: string,
    options: { readonly namespace: string; readonly platform?: string; readonly signal?: AbortSignal },
  ): Promise<void> {
    const { namespace, platform, signal } = options;
    const platforms = platform === undefined ? '--all-platforms' : `--platform=${platform}`;
    const flags = ['--hosts-dir', hostsDirectory, '--snapshotter', 'native', platforms];
    const pull = ['--namespace', namespace, 'images', 'pull', ...flags, reference];
    await ctr(this.#directory, pull, signal);
  }

  /** The digest of an image that was pulled. */
  async digestOf(namespace: string, reference: string): Promise<string> {
    const list = await this.#ctr('--namespace', namespace, 'images', 'list', `name==${reference}`);
    return list.split('\n')[1]?.split(/\s+/)[2] ?? '';
  }

  /** What it keeps under a digest. */
  async content(namespace: string, digest: string): Promise<Buffer> {
    const file = join(
      this.#directory,
      'root/io.containerd.content.v1.content/blobs',
      digest.replace(':', '/'),
    );
    // Asks whether this namespace has it; the bytes themselves do not come through a pipe of text.
    await this.#ctr('--namespace', namespace, 'content', 'label', digest);
    return readFileSync(file);
  }

  /** Bytes of each blob that was begun and is not finished, in whatever namespace. */
  unfinishedBytes(): number[] {
    const directory = join(this.#directory, 'root/io.containerd.content.v1.content/ingest');
    return readdirSync(directory).map((name) => statSync(join(directory, name, 'data')).size);
  }

  /** Gives the path of the root of what was pulled and unpacked to `use`. */
  async withPulled<T>(namespace: string, chainId: Digest, use: (root: string) => Promise<T>): Promise<T> {
    const name = `view-${++this.#unpacked}`;
    const root = join(this.#directory, name);
    mkdirSync(root);
    try {
      return await this.#withView(namespace, 'native', name, chainId, root, use);
    } finally {
      rmSync(root, { recursive: true });
    }
  }

  /**
   * Pulls `HOST:PORT/REPOSITORY:TAG` over http and unpacks it, as if nothing had been pulled before. Rejects with what
   * `ctr` says if containerd refuses the image.
   *
   * @param user `NAME:PASSWORD`; nobody in particular if left out
   * @returns the namespace that has it
   */
  async pull(reference: string, user?: string): Promise<string> {
    // Namespaces share no layers that are unpacked already.
    const namespace = `pull-${++this.#unpacked}`;
    const flags = ['--plain-http', '--snapshotter', 'native', '--platform', 'linux/amd64'];
    const login = user === undefined ? [] : ['--user', user];
    await this.#ctr('--namespace', namespace, 'images', 'pull', ...flags, ...login, reference);
    return namespace;
  }

  async stop(): Promise<void> {
    await this.#process.stop();
  }

  get socketPath(): string {
    return join(this.#directory, 'containerd.sock');
  }

  /** What `ctr` prints. Rejects with what it says if it fails. */
  command(...args: string[]): Promise<string> {
    return this.#ctr(...args);
  }

  async #withView<T>(
    namespace: string,
    snapshotter: Snapshotter,
    name: string,
    chainId: Digest,
    root: string,
    use: (root: string) => Promise<T>,
  ): Promise<T> {
    const view = ['snapshots', '--snapshotter', snapshotter, 'view', '--mounts', name, chainId];
    const [mount] = JSON.parse(await this.#ctr('--namespace', namespace, ...view)) as Mount[];
    if (mount === undefined) throw new Error(`the ${snapshotter} snapshotter has no mount for ${name}`);
    const { Type: type, Source: source, Options: options } = mount;
    await run('mount', [...(type === 'bind' ? [] : ['-t', type]), '-o', options.join(','), source, root]);
    try {
      return await use(root);
    } finally {
      await run('umount', [root]);
    }
  }

  #ctr(...args: string[]): Promise<string> {
    return ctr(this.#directory, args);
  }
}

async function ctr(directory: string, args: readonly string[], signal?: AbortSignal): Promise<string> {
  const options = { env: NOWHERE, ...(signal === undefined ? {} : { signal }) };
  const { stdout } = await run('ctr', ['--address', join(directory, 'containerd.sock'), ...args], options);
  return stdout;
}

/**
 * Writes a hosts.toml for images of `registry`: the host that is asked first, by http, and the server behind it.
 *
 * @param directory what {@link Containerd.pullByHosts} takes
 */
export function writeHosts(directory: string, registry: string, host: string, server: URL): void {
  mkdirSync(join(directory, registry), { recursive: true });
  const lines = [
    `server = "${server.origin}"`,
    `[host."http://${host}"]`,
    '  capabilities = ["pull", "resolve"]',
  ];
  writeFileSync(join(directory, registry, 'hosts.toml'), lines.join('\n'));
}

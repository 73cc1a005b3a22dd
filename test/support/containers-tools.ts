import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { unmountBelow } from './mounts.ts';
import { NOWHERE } from './nowhere.ts';
import { run } from './processes.ts';

/** podman and buildah with a store and settings of their own, and skopeo with these settings. */
export class ContainersTools {
  readonly directory: string;

  /**
   * @param directory takes all that they write
   * @param registries the content of registries.conf
   */
  constructor(directory: string, registries: string) {
    this.directory = directory;
    const settings = join(directory, 'home', '.config', 'containers');
    mkdirSync(settings, { recursive: true });
    writeFileSync(join(settings, 'policy.json'), '{ "default": [{ "type": "insecureAcceptAnything" }] }');
    writeFileSync(join(directory, 'registries.conf'), registries);
    writeFileSync(join(directory, 'auth.json'), '{}');
    writeFileSync(
      join(directory, 'containers.conf'),
      '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "runc"\n',
    );
  }

  podman(...args: readonly string[]): Promise<string> {
    return this.#run('podman', [...this.#store(), '--tmpdir', join(this.directory, 'tmp'), ...args]);
  }

  buildah(...args: readonly string[]): Promise<string> {
    return this.#run('buildah', [...this.#store(), ...args]);
  }

  skopeo(...args: readonly string[]): Promise<string> {
    return this.#run('skopeo', args);
  }

  /** Removes all that they have written. */
  async remove(): Promise<void> {
    await unmountBelow(this.directory);
    rmSync(this.directory, { recursive: true });
  }

  #store(): string[] {
    // vfs works on any file system, and mounts nothing.
    const paths = ['--root', join(this.directory, 'root'), '--runroot', join(this.directory, 'run')];
    return [...paths, '--storage-driver', 'vfs'];
  }

  async #run(program: string, args: readonly string[]): Promise<string> {
    const env = {
      ...NOWHERE,
      CONTAINERS_REGISTRIES_CONF: join(this.directory, 'registries.conf'),
      CONTAINERS_CONF: join(this.directory, 'containers.conf'),
      REGISTRY_AUTH_FILE: join(this.directory, 'auth.json'),
      // Where they note which layer they have seen where.
      XDG_DATA_HOME: join(this.directory, 'home'),
      HOME: join(this.directory, 'home'),
    };
    const { stdout } = await run(program, args, { env });
    return stdout.trim();
  }
}

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
    writeFileSync(join(settings, 'registries.conf'), registries);
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
      CONTAINERS_CONF: join(this.directory, 'containers.conf'),
      REGISTRY_AUTH_FILE: join(this.directory, 'auth.json'),
      // Of settings, and of notes on which layer was seen where.
      HOME: join(this.directory, 'home'),
    };
    const { stdout } = await run(program, args, { env });
    return stdout.trim();
  }
}

/** The part of registries.conf for one registry with a mirror, which is asked by http. */
export function mirrored(registry: string, mirror: string, options = { insecure: false }): string {
  return `
[[registry]]
prefix = "${registry}"
location = "${registry}"
insecure = ${options.insecure}
[[registry.mirror]]
location = "${mirror}"
insecure = true
`;
}

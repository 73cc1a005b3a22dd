/** A host of the cluster that starts containers as containerd does: by the snapshots API, a mount, and the program. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { ClusterHost } from './cluster-network.ts';
import { DadiNode } from './dadi-node.ts';
import { type LazyImage, pullLazily } from './lazy-pull.ts';
import { withMounted } from './snapshot-mounts.ts';
import { SnapshotsClient } from './snapshots-client.ts';

/** All from the beginning of the pull. */
export interface ContainerStart {
  readonly host: string;
  readonly mountedMs: number;
  readonly firstOutputMs: number;
  readonly endedMs: number;
  readonly output: string;
}

export interface LazyHostOptions {
  readonly host: ClusterHost;
  readonly directory: string;
  readonly proxies: readonly string[];
  /** Further keys of the node daemon's configuration. */
  readonly config: object;
  readonly main: string;
}

export class LazyHost {
  readonly host: ClusterHost;
  readonly node: DadiNode;
  readonly #directory: string;
  readonly #client: SnapshotsClient;
  #containers = 0;

  private constructor(host: ClusterHost, directory: string, node: DadiNode) {
    this.host = host;
    this.node = node;
    this.#directory = directory;
    this.#client = new SnapshotsClient(node.socketPath);
  }

  static async start({ host, directory, proxies, config, main }: LazyHostOptions): Promise<LazyHost> {
    const node = await DadiNode.start({
      directory: join(directory, 'n'),
      proxies,
      config,
      main,
      enter: host.enter,
    });
    mkdirSync(join(directory, 'root'));
    return new LazyHost(host, directory, node);
  }

  /** Pulls the image, if it is not here, and runs a program out of it to its end. One at a time. */
  async run(image: LazyImage, program: readonly string[], signal: AbortSignal): Promise<ContainerStart> {
    const startMs = performance.now();
    const parent = await pullLazily(this.#client, image, signal);
    const mounts = await this.#client.prepare(`container ${++this.#containers}`, parent, {}, signal);
    return await withMounted(mounts, join(this.#directory, 'root'), async () => {
      const mountedMs = performance.now() - startMs;
      const child = spawn('chroot', [join(this.#directory, 'root'), ...program], {
        stdio: ['ignore', 'pipe', 'pipe'],
        signal,
        killSignal: 'SIGKILL',
      });
      const first = once(child.stdout, 'readable').then(() => performance.now() - startMs);
      const [output, errors, [exitCode]] = await Promise.all([
        buffer(child.stdout),
        buffer(child.stderr),
        once(child, 'close') as Promise<[number | null]>,
      ]);
      if (exitCode !== 0) throw new Error(`${this.host.name}: the program ended with ${exitCode}: ${errors}`);
      const endedMs = performance.now() - startMs;
      const firstOutputMs = await first;
      return { host: this.host.name, mountedMs, firstOutputMs, endedMs, output: output.toString().trim() };
    });
  }

  async remove(): Promise<void> {
    this.#client.close();
    await this.node.remove();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

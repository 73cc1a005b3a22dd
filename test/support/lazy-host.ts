/** A host of the cluster that starts containers as containerd does: by the snapshots API, a mount, and the program. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { status } from '@grpc/grpc-js';
import type { Labels } from '../../src/client/snapshotter/snapshots-api.ts';
import type { Digest } from '../../src/oci/digest.ts';
import type { ClusterHost } from './cluster-network.ts';
import { DadiNode } from './dadi-node.ts';
import { withMounted } from './snapshot-mounts.ts';
import { SnapshotsClient } from './snapshots-client.ts';

export interface LazyImage {
  /** `reg.example/lib/demo:1` */
  readonly reference: string;
  readonly manifestDigest: Digest;
  /** Bottom first. */
  readonly layers: readonly { readonly digest: Digest; readonly chainId: Digest }[];
}

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

  static async start({ host, directory, proxies, config }: LazyHostOptions): Promise<LazyHost> {
    const node = await DadiNode.start({
      directory: join(directory, 'n'),
      proxies,
      config,
      enter: host.enter,
    });
    mkdirSync(join(directory, 'root'));
    return new LazyHost(host, directory, node);
  }

  /** Pulls the image, if it is not here, and runs a program out of it to its end. One at a time. */
  async run(image: LazyImage, program: readonly string[], signal: AbortSignal): Promise<ContainerStart> {
    const startMs = performance.now();
    let parent = '';
    for (const { chainId } of image.layers) parent = await this.#pullLayer(image, chainId, parent, signal);
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

  /** @returns the name of the layer's snapshot */
  async #pullLayer(image: LazyImage, chainId: Digest, parent: string, signal: AbortSignal): Promise<string> {
    const labels = this.#labels(image, chainId);
    try {
      await this.#client.prepare(`extract ${chainId}`, parent, labels, signal);
    } catch (error) {
      if ((error as { code?: number }).code !== status.ALREADY_EXISTS) throw error;
      const [found] = await this.#client.list(`labels."containerd.io/snapshot.ref"==${chainId}`);
      if (found !== undefined) return found.name;
    }
    throw new Error(`${this.host.name}: layer ${chainId} is not converted: it would have to be downloaded`);
  }

  #labels({ reference, manifestDigest, layers }: LazyImage, chainId: Digest): Labels {
    const at = layers.findIndex((layer) => layer.chainId === chainId);
    return {
      'containerd.io/snapshot.ref': chainId,
      'containerd.io/snapshot/cri.image-ref': reference,
      'containerd.io/snapshot/cri.manifest-digest': manifestDigest,
      'containerd.io/snapshot/cri.layer-digest': layers[at]!.digest,
      'containerd.io/snapshot/cri.image-layers': layers
        .slice(at)
        .map(({ digest }) => digest)
        .join(','),
    };
  }
}

/** All that a pod needs: a registry, the proxy, the node daemon behind a cable, containerd with its snapshotter. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { vi } from 'vitest';
import type { Digest } from '../../src/oci/digest.ts';
import { pauseImage } from './busybox-image.ts';
import { startFilledRegistry } from './client-images.ts';
import { writeHosts } from './containerd.ts';
import { converted } from './converted-image.ts';
import { CriContainerd } from './cri/cri-containerd.ts';
import { DadiNode } from './dadi-node.ts';
import { leftovers } from './leftovers.ts';
import type { MadeManifest } from './made-image.ts';
import { run } from './processes.ts';
import { chainIdOf } from './pulled-images.ts';
import type { Registry, RegistryOptions } from './registry.ts';
import { TcpRelay } from './tcp-relay.ts';
import { TestProxy } from './test-proxy.ts';
import { readTree, type TreeEntry } from './tree.ts';

/** The registry as images are named after it. It is no host of any network. */
export const HOST = 'reg.example';
/** The same registry, which the proxy reaches by a cable of its own, and containerd without the proxy. */
const FAR_HOST = 'far.example';
/** What holds the pods' namespaces; every stack has it. */
export const PAUSE = 'lib/pause:1';
type Pause = typeof PAUSE;

export interface NodeStackOptions<Names extends string> {
  /** By `repository:tag`. */
  readonly images: Readonly<Record<Names, MadeManifest>>;
  /** Takes all files; made by {@link scratchDirectory}, removed with the stack. */
  readonly scratch: string;
  readonly registry?: Omit<RegistryOptions, 'dir'>;
  /** Further keys of the proxy's configuration. */
  readonly proxy?: object;
  /** Further keys of the node daemon's configuration. */
  readonly node?: object;
}

/** With a short path: sockets stand in it. */
export function scratchDirectory(): string {
  return mkdtempSync(join(tmpdir(), 'dadi-e2e-'));
}

export class NodeStack<Names extends string> {
  readonly images: Readonly<Record<Names | Pause, MadeManifest>>;
  readonly scratch: string;
  readonly registry: Registry;
  readonly proxy: TestProxy;
  /** Between the host and the proxy: for the node daemon and for containerd. */
  readonly cable: TcpRelay;
  /** Between the proxy and what it takes for {@link NodeStack.farReference}'s registry. */
  readonly farCable: TcpRelay;
  readonly node: DadiNode;
  readonly containerd: CriContainerd;

  private constructor(
    images: NodeStack<Names>['images'],
    scratch: string,
    parts: Pick<NodeStack<Names>, 'registry' | 'proxy' | 'cable' | 'farCable' | 'node' | 'containerd'>,
  ) {
    this.images = images;
    this.scratch = scratch;
    this.registry = parts.registry;
    this.proxy = parts.proxy;
    this.cable = parts.cable;
    this.farCable = parts.farCable;
    this.node = parts.node;
    this.containerd = parts.containerd;
  }

  static async start<Names extends string>(options: NodeStackOptions<Names>): Promise<NodeStack<Names>> {
    const { scratch } = options;
    const images = { ...options.images, [PAUSE]: pauseImage() } as const;
    const registry = await startFilledRegistry(
      { ...options.registry, dir: join(scratch, 'registry') },
      images,
    );
    const farCable = await TcpRelay.start(registry.host);
    const upstreams = [
      { name: HOST, url: registry.baseUrl.href },
      { name: FAR_HOST, url: `http://${farCable.host}` },
    ];
    const proxy = await TestProxy.start({ upstreams, tagTtlMs: 0, ...options.proxy });
    const cable = await TcpRelay.start(proxy.host);
    const node = await DadiNode.start({
      directory: join(scratch, 'n'),
      proxies: [`http://${cable.host}`],
      ...(options.node === undefined ? {} : { config: options.node }),
    });
    const hostsDirectory = join(scratch, 'hosts');
    writeHosts(hostsDirectory, HOST, cable.host, registry.baseUrl);
    writeHosts(hostsDirectory, FAR_HOST, registry.host, registry.baseUrl);
    const containerd = await CriContainerd.start({
      directory: join(scratch, 'c'),
      hostsDirectory,
      pauseImage: `${HOST}/${PAUSE}`,
      snapshotter: 'dadi',
      dadiSocketPath: node.socketPath,
    });
    return new NodeStack(images, scratch, { registry, proxy, cable, farCable, node, containerd });
  }

  /** As containerd names an image. */
  reference(name: Names | Pause): string {
    return `${HOST}/${name}`;
  }

  /** As containerd names the same image where the registry is far from the proxy. */
  farReference(name: Names): string {
    return `${FAR_HOST}/${name}`;
  }

  /** Resolves when the proxy has converted images. */
  async convert(...names: readonly (Names | Pause)[]): Promise<void> {
    for (const name of names) await this.#convert(HOST, name);
  }

  /** Resolves when the proxy has converted an image of the registry that is far. */
  async convertFar(name: Names): Promise<void> {
    await this.#convert(FAR_HOST, name);
  }

  /** Starts the node daemon again, and waits until containerd tries to reach it again: after a failure it pauses. */
  async startNode(changed: object = {}): Promise<void> {
    await this.node.start(changed);
    const isThere = () => this.containerd.ctr('snapshots', '--snapshotter', 'dadi', 'ls');
    await vi.waitFor(isThere, { timeout: 120_000, interval: 500 });
  }

  /** Of all the image's layers together. */
  chainId(name: Names): Digest {
    return chainIdOf(this.images[name]);
  }

  /**
   * The root file system of an image that was pulled, as a snapshotter mounts it for a container. The root directory is
   * then the container's own, and has no time here.
   */
  async treeOf(snapshotter: 'dadi' | 'overlayfs', chainId: Digest): Promise<TreeEntry[]> {
    const root = mkdtempSync(join(this.scratch, 'root-'));
    const snapshots = (...args: string[]) =>
      this.containerd.ctr('snapshots', '--snapshotter', snapshotter, ...args);
    const key = basename(root);
    // `ctr` prints the commands that mount it. Containerd keeps no view that nothing refers to, but what is prepared.
    await run('sh', ['-ec', await snapshots('prepare', '--target', root, key, chainId)]);
    try {
      const tree = await readTree(root);
      return tree.map((entry) => (entry.path === '' ? { ...entry, mtimeNs: 0n } : entry));
    } finally {
      await run('umount', [root]);
      await snapshots('rm', key);
    }
  }

  /** Takes everything down. Rejects if something is left. */
  async remove(): Promise<void> {
    await this.containerd.remove();
    await this.node.remove();
    await this.cable.stop();
    await this.proxy.remove();
    await this.farCable.stop();
    await this.registry.stop();
    const left = leftovers(this.scratch);
    rmSync(this.scratch, { recursive: true });
    if (left.length > 0) throw new Error(`this is left:\n${left.join('\n')}`);
  }

  async #convert(registry: string, name: Names | Pause): Promise<void> {
    const [repository = ''] = name.split(':');
    await converted(this.proxy.url, registry, repository, this.images[name].descriptor.digest);
  }
}

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { pino } from 'pino';
import type { ChainMounter } from '../../src/client/snapshotter/chain-mounts.ts';
import type { Labels } from '../../src/client/snapshotter/snapshots-api.ts';
import {
  type SnapshotterOptions,
  SnapshotterServer,
} from '../../src/client/snapshotter/snapshotter-server.ts';
import type { ChainAnswer, ChainLookup, ImageName } from '../../src/client/sources/chain-lookup.ts';
import type { LazyChain } from '../../src/client/sources/lazy-chain.ts';
import { type Digest, digestHex, digestOf } from '../../src/oci/digest.ts';
import { SnapshotsClient } from './snapshots-client.ts';

/** Stands for the proxies: answers what a test says, at once unless the test makes it wait. */
export class GivenAnswers implements ChainLookup {
  readonly answers = new Map<Digest, ChainAnswer>();
  readonly asked: { readonly chainId: Digest; readonly image: ImageName; readonly waitMs: number }[] = [];
  /** What each question waits for before it is answered. */
  delay: (signal: AbortSignal | undefined) => Promise<void> = async () => {};

  async find(
    chainId: Digest,
    image: ImageName,
    { waitMs, signal }: { readonly waitMs: number; readonly signal?: AbortSignal },
  ): Promise<ChainAnswer> {
    this.asked.push({ chainId, image, waitMs });
    await this.delay(signal);
    return this.answers.get(chainId) ?? { kind: 'unavailable', reason: 'nobody knows it' };
  }
}

/** Stands for mounted devices: a directory for each chain. */
export class GivenMounts implements ChainMounter {
  readonly root: string;
  readonly mounted = new Set<Digest>();
  /** Every mount and unmount, in order. */
  readonly calls: string[] = [];
  failure: Error | null = null;
  expected = 0;

  constructor(root: string) {
    this.root = root;
  }

  directory(chainId: Digest): string {
    return join(this.root, digestHex(chainId).slice(0, 12));
  }

  expectMount(): void {
    this.expected++;
  }

  async mount(chain: LazyChain): Promise<string> {
    if (this.failure !== null) throw this.failure;
    if (!this.mounted.has(chain.chainId)) this.calls.push(`mount ${chain.chainId}`);
    this.mounted.add(chain.chainId);
    mkdirSync(this.directory(chain.chainId), { recursive: true });
    return this.directory(chain.chainId);
  }

  async unmount(chainId: Digest): Promise<void> {
    if (this.mounted.delete(chainId)) this.calls.push(`unmount ${chainId}`);
  }
}

/** A snapshotter of its own with a client, all in one directory whose path is short. */
export interface TestSnapshotter {
  readonly server: SnapshotterServer;
  readonly client: SnapshotsClient;
  readonly socketPath: string;
  /** What it has logged, a JSON object each. */
  readonly log: readonly Readonly<Record<string, unknown>>[];
  stop(): Promise<void>;
}

export async function startSnapshotter(
  root: string,
  parts: Partial<SnapshotterOptions> = {},
): Promise<TestSnapshotter> {
  const log: Record<string, unknown>[] = [];
  const stream = new Writable({
    write(line: Buffer, _encoding, done) {
      log.push(JSON.parse(line.toString()));
      done();
    },
  });
  const options = {
    socketPath: join(root, 's.sock'),
    stateDirectory: join(root, 'state'),
    lookup: new GivenAnswers(),
    mounts: new GivenMounts(join(root, 'chains')),
    conversionWaitMs: 0,
    logger: pino(stream),
    ...parts,
  };
  const server = await SnapshotterServer.start(options);
  const client = new SnapshotsClient(options.socketPath);
  const stop = async () => {
    client.close();
    await server.close();
  };
  return { server, client, socketPath: options.socketPath, log, stop };
}

/** The lowest layers of an image that is named so, converted. */
export function lazyChain(name: string, height: number): LazyChain {
  const layers = Array.from({ length: height }, (_, index) => ({
    digest: digestOf(`${name} ${index} blob`),
    sizeBytes: 1000 + index,
    chunkTableDigest: digestOf(`${name} ${index} table`),
  }));
  return {
    chainId: digestOf(`${name} ${height}`),
    registry: 'reg.example.com',
    repository: 'lib/image',
    layers,
  };
}

/** What containerd's CRI service says when it wants a layer. */
export function pullLabels(chainId: string, tag = '1'): Labels {
  return {
    'containerd.io/snapshot.ref': chainId,
    'containerd.io/snapshot/cri.image-ref': `reg.example.com/lib/image:${tag}`,
    'containerd.io/snapshot/cri.manifest-digest': digestOf(`manifest ${tag}`),
    'containerd.io/snapshot/cri.layer-digest': digestOf(`layer of ${chainId}`),
    'containerd.io/snapshot/cri.image-layers': digestOf(`layer of ${chainId}`),
  };
}

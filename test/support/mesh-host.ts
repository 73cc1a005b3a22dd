import { pino } from 'pino';
import { encodeChunkTable } from '../../src/format/chunk-table.ts';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import type { ChunkHolder, HeldContent } from '../../src/p2p/agent/chunk-holder.ts';
import type { MeshAgentOptions } from '../../src/p2p/agent/mesh.ts';
import { MeshAgent } from '../../src/p2p/agent/mesh-agent.ts';
import type { MeshBlob } from '../../src/p2p/agent/mesh-blob.ts';
import type { Content } from '../../src/p2p/mesh-protocol.ts';
import type { ChunkedBlob } from './chunked-blob.ts';

export function contentOf(blob: ChunkedBlob): Content {
  return { blob: blob.digest, table: digestOf(encodeChunkTable(blob.table)) };
}

/** What a host has of a blob in memory, and gets from the mesh. */
export class HostContent implements HeldContent {
  readonly blob: Digest;
  readonly table: ChunkedBlob['table'];
  readonly chunks = new Map<number, Buffer>();
  readonly #coming = new Map<number, Promise<number[]>>();
  /** Before a chunk is given to others: a test may hold it up, or change it. */
  onGive: (index: number, bytes: Buffer) => Buffer | Promise<Buffer> = (_, bytes) => bytes;
  /** Gives what the mesh does not. */
  proxy: ((index: number) => Buffer) | null = null;
  readonly mesh: MeshBlob;

  constructor(blob: ChunkedBlob, mesh: MeshBlob) {
    this.blob = blob.digest;
    this.table = blob.table;
    this.mesh = mesh;
  }

  has(index: number): boolean {
    return this.chunks.has(index);
  }

  async chunk(index: number, signal: AbortSignal): Promise<Buffer> {
    signal.throwIfAborted();
    if (!this.has(index)) await this.#get(index);
    const bytes = this.chunks.get(index) ?? this.proxy?.(index);
    if (bytes === undefined) throw new Error(`chunk ${index} cannot be had`);
    this.chunks.set(index, bytes);
    return this.onGive(index, bytes);
  }

  /** Once, for all who want it. */
  #get(index: number): Promise<number[]> {
    let coming = this.#coming.get(index);
    if (coming === undefined) {
      coming = this.fetch(index, 1).finally(() => this.#coming.delete(index));
      this.#coming.set(index, coming);
    }
    return coming;
  }

  /** From the mesh alone; the indexes that did not come. */
  fetch(first: number, count: number, signal = new AbortController().signal): Promise<number[]> {
    return this.mesh.fetchRun(first, count, signal, (index, bytes) => this.chunks.set(index, bytes));
  }
}

/** A host of the mesh that keeps in memory what it gets. */
export class MeshHost implements ChunkHolder {
  agent!: MeshAgent;
  readonly #contents = new Map<Digest, HostContent>();

  static async start(
    options: Partial<MeshAgentOptions> & Pick<MeshAgentOptions, 'roots'>,
  ): Promise<MeshHost> {
    const host = new MeshHost();
    host.agent = await MeshAgent.start({
      listen: { host: '127.0.0.1', port: 0 },
      advertise: '127.0.0.1',
      zone: '',
      uploadBytesPerSecond: 1_000_000_000,
      security: { kind: 'plain' },
      authorize: async () => null,
      holder: host,
      logger: pino({ level: 'silent' }),
      ...options,
    });
    return host;
  }

  find(table: Digest): HeldContent | null {
    return this.#contents.get(table) ?? null;
  }

  /** Joins and opens; has some chunks, or none, or all. */
  open(blob: ChunkedBlob, has: readonly number[] | 'all' = []): HostContent {
    const content = contentOf(blob);
    this.agent.join({ registry: 'reg.example', repository: 'lib/app' }, [content]);
    const held = new HostContent(blob, this.agent.open(content, blob.table));
    const { chunkSize, blobSize } = blob.table;
    for (let index = 0; index * chunkSize < blobSize; index++) {
      if (has !== 'all' && !has.includes(index)) continue;
      held.chunks.set(index, blob.bytes.subarray(index * chunkSize, (index + 1) * chunkSize));
    }
    this.#contents.set(content.table, held);
    return held;
  }
}

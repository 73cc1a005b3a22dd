import type { ByteSource } from '../../format/byte-source.ts';
import { type ChunkTable, encodeChunkTable } from '../../format/chunk-table.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import type { Mesh, Patience } from '../../p2p/agent/mesh.ts';
import type { ChunkCache, PeerSource } from '../chunks/chunk-cache.ts';
import { type FetchRange, FetchRefusedError } from '../chunks/chunk-fetcher.ts';
import { newReadStats, type ReadStats } from '../chunks/read-stats.ts';
import type { MirrorTarget } from './mirror-target.ts';

/** Gets parts of blobs; `Proxies` is one. */
export interface BlobParts {
  /** What it gets need not be right. */
  fetchRange(registry: string, repository: string, digest: Digest): FetchRange;
}

/** Other hosts, each in the right of a repository. */
export type BlobMesh = PeerSource & Pick<Mesh, 'join' | 'lend'>;

/** Read through the cache at once. */
const STEP_BYTES = 4 * 1024 * 1024;

/** Blobs whose chunks are known, read through the host's chunk cache, which shares what is open and on its way. */
export class ChunkedBlobs {
  /** What all reading cost. */
  readonly stats: ReadStats = newReadStats();
  readonly #cache: ChunkCache;
  readonly #parts: BlobParts;
  readonly #mesh: BlobMesh | null;
  readonly #readTimeoutMs: number;

  /** @param mesh asked before `parts`; null: there is none */
  constructor(cache: ChunkCache, parts: BlobParts, mesh: BlobMesh | null, readTimeoutMs: number) {
    this.#cache = cache;
    this.#parts = parts;
    this.#mesh = mesh;
    this.#readTimeoutMs = readTimeoutMs;
  }

  /** Other hosts, if any are asked. */
  get mesh(): BlobMesh | null {
    return this.#mesh;
  }

  /** To be closed by the caller. What the cache lacks is fetched in the name of that repository. */
  open(
    target: MirrorTarget,
    digest: Digest,
    table: ChunkTable,
    patience: Patience = 'short',
  ): Promise<ByteSource> {
    this.offer(target, digest, table);
    const fetch = this.#parts.fetchRange(target.registry, target.repository, digest);
    const mesh = this.#mesh;
    const peers: PeerSource | null = mesh && {
      table: (content, signal) => mesh.table(content, signal),
      open: (content, of) => mesh.open(content, of, patience),
    };
    return this.#read(digest, table, fetch, peers);
  }

  /** Tells the mesh that this host has a blob, or is about to get it; not that anybody reads it. */
  offer(target: MirrorTarget, digest: Digest, table: ChunkTable): void {
    this.#mesh?.join(target, [{ blob: digest, table: digestOf(encodeChunkTable(table)) }]);
  }

  /** The same without asking anybody: reads of what the cache lacks fail. To be closed by the caller. */
  openHeld(digest: Digest, table: ChunkTable): Promise<ByteSource> {
    const fetch = () => Promise.reject(new FetchRefusedError('no proxy can be asked'));
    return this.#read(digest, table, fetch, null);
  }

  /** Puts a verified blob into the cache. */
  async keep(digest: Digest, table: ChunkTable, source: ByteSource): Promise<void> {
    const fetch: FetchRange = async (offset, length) => {
      const bytes = Buffer.allocUnsafe(length);
      await source.read(offset, bytes);
      return bytes;
    };
    const timeoutMs = this.#readTimeoutMs;
    const kept = await this.#cache.openBlob({ digest, table, fetch, timeoutMs, stats: newReadStats() });
    try {
      await readThrough(kept, 0, kept.size);
    } finally {
      await kept.close();
    }
  }

  #read(digest: Digest, table: ChunkTable, fetch: FetchRange, mesh: PeerSource | null): Promise<ByteSource> {
    const timeoutMs = this.#readTimeoutMs;
    return this.#cache.openBlob({ digest, table, fetch, timeoutMs, mesh, stats: this.stats });
  }
}

/** Reads a range without wanting its bytes. Rejects if any of it cannot be read. */
export async function readThrough(
  source: ByteSource,
  start: number,
  end: number,
  signal?: AbortSignal,
): Promise<void> {
  const scratch = Buffer.allocUnsafe(Math.min(STEP_BYTES, end - start));
  for (let offset = start; offset < end; offset += scratch.length) {
    await source.read(offset, scratch.subarray(0, Math.min(scratch.length, end - offset)), signal);
  }
}

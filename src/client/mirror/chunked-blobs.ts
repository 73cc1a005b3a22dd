import type { ByteSource } from '../../format/byte-source.ts';
import type { ChunkTable } from '../../format/chunk-table.ts';
import type { Digest } from '../../oci/digest.ts';
import type { ChunkCache } from '../chunks/chunk-cache.ts';
import { type FetchRange, FetchRefusedError } from '../chunks/chunk-fetcher.ts';
import { newReadStats, type ReadStats } from '../chunks/read-stats.ts';
import type { MirrorTarget } from './mirror-target.ts';

/** Gets parts of blobs; `Proxies` is one. */
export interface BlobParts {
  /** What it gets need not be right. */
  fetchRange(registry: string, repository: string, digest: Digest): FetchRange;
}

/** A blob that is in use. */
interface OpenBlob {
  readonly source: Promise<ByteSource>;
  users: number;
  closing: NodeJS.Timeout | undefined;
}

/** Docker and containerd ask again soon for what they were interrupted in. */
const LINGER_MS = 10_000;
/** Read through the cache at once. */
const STEP_BYTES = 4 * 1024 * 1024;

/** Blobs whose chunks are known, read through the host's chunk cache: each opened once for all who read it. */
export class ChunkedBlobs {
  /** What all reading cost. */
  readonly stats: ReadStats = newReadStats();
  readonly #cache: ChunkCache;
  readonly #parts: BlobParts;
  readonly #readTimeoutMs: number;
  readonly #open = new Map<string, OpenBlob>();

  constructor(cache: ChunkCache, parts: BlobParts, readTimeoutMs: number) {
    this.#cache = cache;
    this.#parts = parts;
    this.#readTimeoutMs = readTimeoutMs;
  }

  /** To be closed by the caller. What the cache lacks is fetched in the name of that repository. */
  async open(target: MirrorTarget, digest: Digest, table: ChunkTable): Promise<ByteSource> {
    const key = `${target.registry}/${target.repository}@${digest}`;
    let blob = this.#open.get(key);
    if (blob === undefined) {
      const fetch = this.#parts.fetchRange(target.registry, target.repository, digest);
      blob = { source: this.#read(digest, table, fetch), users: 0, closing: undefined };
      this.#open.set(key, blob);
    }
    clearTimeout(blob.closing);
    blob.users++;
    const release = this.#releaser(key, blob);
    try {
      const source = await blob.source;
      return {
        size: source.size,
        read: (offset, into, signal) => source.read(offset, into, signal),
        close: async () => release(),
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** The same without asking anybody: reads of what the cache lacks fail. To be closed by the caller. */
  openHeld(digest: Digest, table: ChunkTable): Promise<ByteSource> {
    return this.#read(digest, table, () => Promise.reject(new FetchRefusedError('no proxy can be asked')));
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

  async close(): Promise<void> {
    const all = [...this.#open.values()];
    this.#open.clear();
    for (const { closing } of all) clearTimeout(closing);
    await Promise.all(all.map(async ({ source }) => (await source).close()));
  }

  #read(digest: Digest, table: ChunkTable, fetch: FetchRange): Promise<ByteSource> {
    const timeoutMs = this.#readTimeoutMs;
    return this.#cache.openBlob({ digest, table, fetch, timeoutMs, stats: this.stats });
  }

  #releaser(key: string, blob: OpenBlob): () => void {
    let isReleased = false;
    return () => {
      if (isReleased) return;
      isReleased = true;
      if (--blob.users > 0) return;
      blob.closing = setTimeout(() => {
        if (this.#open.get(key) === blob) this.#open.delete(key);
        blob.source.then((source) => source.close()).catch(() => {});
      }, LINGER_MS).unref();
    };
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

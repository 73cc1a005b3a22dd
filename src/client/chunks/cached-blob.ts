import { type ByteSource, checkRange, SourceError } from '../../format/byte-source.ts';
import { type ChunkTable, verifyChunk } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, shortDigest } from '../../oci/digest.ts';
import { type CachedChunks, type ChunkCache, chunkCount } from './chunk-cache.ts';
import { ChunkFetcher, type FetchRange } from './chunk-fetcher.ts';
import type { ReadStats } from './read-stats.ts';

/** Missing neighbours of one read become one request up to this. */
const MAX_REQUEST_BYTES = 4 * 1024 * 1024;
export const DEFAULT_READ_TIMEOUT_MS = 60_000;

export interface CachedBlobOptions {
  readonly digest: Digest;
  readonly table: ChunkTable;
  readonly fetch: FetchRange;
  readonly cache: ChunkCache;
  readonly stats: ReadStats;
  /** How long a chunk may take to come, retries included, before reads of it fail. Milliseconds. */
  readonly timeoutMs?: number;
  /** Told of what `fetch` gave, if a chunk of it is wrong. */
  readonly onWrongBytes?: (bytes: Buffer) => void;
}

/**
 * A remote blob as a {@link ByteSource}: read by chunks, each fetched when it is first touched, by whoever
 * touches it first and for all who wait for it; verified against the chunk table before anyone sees it; kept in
 * the cache. What the cache held from before is verified once by each process.
 */
export async function cachedBlob(options: CachedBlobOptions): Promise<ByteSource> {
  return new CachedBlob(options, await options.cache.blob(options.table));
}

/** A chunk that somebody is getting, for all who want it. */
type Pending = ReturnType<typeof Promise.withResolvers<Buffer>>;

class CachedBlob implements ByteSource {
  readonly size: number;
  readonly #name: string;
  readonly #table: ChunkTable;
  readonly #chunks: CachedChunks;
  readonly #fetcher: ChunkFetcher;
  readonly #stats: ReadStats;
  /** Chunks that this process has seen to be right on disk. */
  readonly #verified: Uint8Array;
  readonly #pending = new Map<number, Pending>();
  #closed = false;

  constructor(options: CachedBlobOptions, chunks: CachedChunks) {
    this.size = options.table.blobSize;
    this.#name = `blob ${shortDigest(options.digest)}`;
    this.#table = options.table;
    this.#chunks = chunks;
    this.#stats = options.stats;
    this.#verified = new Uint8Array(chunkCount(options.table));
    this.#fetcher = new ChunkFetcher({ ...options, timeoutMs: options.timeoutMs ?? DEFAULT_READ_TIMEOUT_MS });
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    checkRange(this.#name, this.size, offset, target.length);
    signal?.throwIfAborted();
    await unlessAborted(this.#fill(offset, target), signal);
    this.#stats.bytesRead += target.length;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#fetcher.close();
    await Promise.allSettled(Array.from(this.#pending.values(), (pending) => pending.promise));
    await this.#chunks.close();
  }

  async #fill(offset: number, target: Buffer): Promise<void> {
    if (this.#closed) throw new SourceError('ERR_SOURCE_IO', `${this.#name}: read after close`);
    const { chunkSize } = this.#table;
    const end = offset + target.length;
    const lastIndex = Math.ceil(end / chunkSize) - 1;
    this.#claim(Math.floor(offset / chunkSize), lastIndex);
    const parts: Promise<void>[] = [];
    for (let at = offset; at < end; ) {
      const index = Math.floor(at / chunkSize);
      const pending = this.#pending.get(index);
      let next = index + 1;
      // Neighbours on disk are read in one go.
      while (pending === undefined && next <= lastIndex && !this.#pending.has(next)) next++;
      const partEnd = Math.min(end, next * chunkSize);
      const part = target.subarray(at - offset, partEnd - offset);
      const skip = at - index * chunkSize;
      if (pending === undefined) parts.push(this.#fromDisk(at, part));
      else parts.push(pending.promise.then((bytes) => void bytes.copy(part, 0, skip)));
      at = partEnd;
    }
    await Promise.all(parts);
  }

  async #fromDisk(offset: number, part: Buffer): Promise<void> {
    const { chunkSize } = this.#table;
    const first = Math.floor(offset / chunkSize);
    const end = Math.ceil((offset + part.length) / chunkSize);
    try {
      await this.#chunks.read(offset, part);
      this.#stats.cacheHits += end - first;
    } catch {
      // The disk lost what it held: from here on as if it had never been there.
      this.#verified.fill(0, first, end);
      await this.#fill(offset, part);
    }
  }

  /** Makes each chunk of the range verified or pending; the work goes on whether or not a reader waits for it. */
  #claim(first: number, last: number): void {
    const claimed: number[] = [];
    for (let index = first; index <= last; index++) {
      if (this.#verified[index] === 1 || this.#pending.has(index)) continue;
      this.#pending.set(index, Promise.withResolvers());
      claimed.push(index);
    }
    if (claimed.length > 0) void this.#obtain(claimed);
  }

  async #obtain(claimed: readonly number[]): Promise<void> {
    const misses: number[] = [];
    for (const [at, cached] of (
      await Promise.all(claimed.map((index) => this.#chunks.load(index)))
    ).entries()) {
      const index = claimed[at]!;
      if (cached !== null && verifyChunk(this.#table, index, cached.bytes)) {
        this.#stats.cacheHits++;
        this.#settle(index, cached.bytes, cached.onDisk);
      } else misses.push(index);
    }
    for (const { first, count } of runs(misses, Math.floor(MAX_REQUEST_BYTES / this.#table.chunkSize))) {
      const missing = new Set(Array.from({ length: count }, (_, i) => first + i));
      const deliver = (index: number, bytes: Buffer) => {
        missing.delete(index);
        void this.#chunks.store(index, bytes).then((onDisk) => this.#settle(index, bytes, onDisk));
      };
      void this.#fetcher.fetch(first, count, deliver).catch((error) => {
        for (const index of missing) {
          this.#pending.get(index)?.reject(error);
          this.#pending.delete(index);
        }
      });
    }
  }

  #settle(index: number, bytes: Buffer, onDisk: boolean): void {
    if (onDisk) this.#verified[index] = 1;
    this.#pending.get(index)?.resolve(bytes);
    this.#pending.delete(index);
  }
}

/** Rising numbers as runs of neighbours, none longer than `most` (but at least one). */
function runs(indexes: readonly number[], most: number): { first: number; count: number }[] {
  const found: { first: number; count: number }[] = [];
  for (const index of indexes) {
    const last = found.at(-1);
    if (last !== undefined && last.first + last.count === index && last.count < most) last.count++;
    else found.push({ first: index, count: 1 });
  }
  return found;
}

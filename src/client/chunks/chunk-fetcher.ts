import { SourceError } from '../../format/byte-source.ts';
import { type ChunkTable, verifyChunk } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, shortDigest } from '../../oci/digest.ts';
import { chunkLength } from './chunk-cache.ts';
import type { ReadStats } from './read-stats.ts';

/**
 * Gets exactly `length` bytes of the blob from `offset`, or rejects when trying again is of no use. The bytes
 * need not be right.
 */
export type FetchRange = (offset: number, length: number, signal: AbortSignal) => Promise<Buffer>;

/** A chunk with a wrong digest is asked for once more: it may have been one bad cache on the way. */
const CORRUPT_TRIES = 2;

export interface ChunkFetcherOptions {
  readonly digest: Digest;
  readonly table: ChunkTable;
  readonly fetch: FetchRange;
  readonly stats: ReadStats;
  /** Bound on one range, whatever `fetch` tries. Milliseconds. */
  readonly timeoutMs: number;
  /** Told of what `fetch` gave, if a chunk of it is wrong. */
  readonly onWrongBytes?: (bytes: Buffer) => void;
}

/** Gets chunks from the network. Nobody sees one that does not match the chunk table. */
export class ChunkFetcher {
  readonly #options: ChunkFetcherOptions;
  readonly #closed = new AbortController();

  constructor(options: ChunkFetcherOptions) {
    this.#options = options;
  }

  /**
   * Fetches `count` neighbouring chunks in one request. `deliver` gets each chunk that is right; the promise
   * rejects if any is missing then: ERR_SOURCE_CORRUPT, or ERR_SOURCE_IO.
   */
  async fetch(first: number, count: number, deliver: (index: number, bytes: Buffer) => void): Promise<void> {
    const timeout = AbortSignal.timeout(this.#options.timeoutMs);
    const signal = AbortSignal.any([timeout, this.#closed.signal]);
    let missing = [{ first, count }];
    for (let tries = 0; missing.length > 0; tries++) {
      if (tries === CORRUPT_TRIES) throw this.#corrupt(missing[0]!.first);
      const bad: { first: number; count: number }[] = [];
      for (const range of missing) {
        const badBefore = bad.length;
        const bytes = await this.#bytes(range.first, range.count, signal, timeout);
        for (let index = range.first; index < range.first + range.count; index++) {
          const start = (index - range.first) * this.#options.table.chunkSize;
          const chunk = bytes.subarray(start, start + chunkLength(this.#options.table, index));
          if (verifyChunk(this.#options.table, index, chunk)) {
            this.#options.stats.chunksFetched++;
            deliver(index, chunk);
          } else bad.push({ first: index, count: 1 });
        }
        if (bad.length > badBefore) this.#options.onWrongBytes?.(bytes);
      }
      missing = bad;
    }
  }

  /** Ends what is under way. */
  close(): void {
    this.#closed.abort();
  }

  async #bytes(first: number, count: number, signal: AbortSignal, timeout: AbortSignal): Promise<Buffer> {
    const { table, stats, digest, timeoutMs } = this.#options;
    const offset = first * table.chunkSize;
    const length = Math.min(count * table.chunkSize, table.blobSize - offset);
    stats.requests++;
    try {
      const bytes = await unlessAborted(this.#options.fetch(offset, length, signal), signal);
      stats.bytesFetched += bytes.length;
      if (bytes.length === length) return bytes;
      throw new SourceError('ERR_SOURCE_SHORT', `${bytes.length} bytes came where ${length} were asked for`);
    } catch (cause) {
      const why = timeout.aborted ? ` within ${timeoutMs} ms` : '';
      const what = `cannot fetch ${length} bytes at ${offset}${why}`;
      throw new SourceError('ERR_SOURCE_IO', `blob ${shortDigest(digest)}: ${what}`, { cause });
    }
  }

  #corrupt(index: number): SourceError {
    const { digest, table } = this.#options;
    return new SourceError(
      'ERR_SOURCE_CORRUPT',
      `blob ${shortDigest(digest)}: the bytes sent for chunk ${index} (${chunkLength(table, index)} at ${index * table.chunkSize}) do not match the chunk table`,
    );
  }
}

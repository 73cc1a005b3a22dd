import { setImmediate as nextTurn } from 'node:timers/promises';
import { SourceError } from '../../format/byte-source.ts';
import { type ChunkTable, verifyChunk } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { ReadStats } from './read-stats.ts';
import { chunkLength } from './table-record.ts';

/**
 * Gets exactly `length` bytes of the blob from `offset`, or rejects. The bytes need not be right. It need not try
 * twice either: it is called again until the reads that wait have waited their time, unless it rejects with
 * {@link FetchRefusedError}.
 */
export type FetchRange = (offset: number, length: number, signal: AbortSignal) => Promise<Buffer>;

/** Asking again is of no use to the reads that wait: the blob is not there, or not for us. They fail at once. */
export class FetchRefusedError extends Error {
  override readonly name = 'FetchRefusedError';
  readonly code = 'ERR_FETCH_REFUSED';
}

/** In whose name, and for whose account, a blob is fetched. */
export interface BlobUser {
  readonly fetch: FetchRange;
  readonly stats: ReadStats;
  /** Told of what `fetch` gave, if a chunk of it is wrong. */
  readonly onWrongBytes?: (bytes: Buffer) => void;
}

/** Verified without a pause: hashing so much takes a millisecond or two, and all other reads wait meanwhile. */
export const VERIFY_BYTES = 1024 * 1024;

/**
 * Fetches `count` neighbouring chunks in one request. `deliver` gets each chunk that is right; the indexes of the
 * others are returned.
 * @throws SourceError ERR_SOURCE_SHORT; what `fetch` rejects with; the signal's reason
 */
export async function fetchRun(
  table: ChunkTable,
  first: number,
  count: number,
  { fetch, stats, onWrongBytes }: BlobUser,
  signal: AbortSignal,
  deliver: (index: number, bytes: Buffer) => void,
): Promise<number[]> {
  const offset = first * table.chunkSize;
  const length = Math.min(count * table.chunkSize, table.blobSize - offset);
  stats.requests++;
  const bytes = await unlessAborted(fetch(offset, length, signal), signal);
  stats.bytesFetched += bytes.length;
  if (bytes.length !== length) {
    throw new SourceError('ERR_SOURCE_SHORT', `${bytes.length} bytes came where ${length} were asked for`);
  }
  const corrupt: number[] = [];
  for (let index = first; index < first + count; index++) {
    const start = (index - first) * table.chunkSize;
    if (start > 0 && start % VERIFY_BYTES === 0) await nextTurn();
    const chunk = bytes.subarray(start, start + chunkLength(table, index));
    if (verifyChunk(table, index, chunk)) {
      stats.chunksFetched++;
      deliver(index, chunk);
    } else corrupt.push(index);
  }
  if (corrupt.length > 0) onWrongBytes?.(bytes);
  return corrupt;
}

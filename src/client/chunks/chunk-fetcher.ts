import { setImmediate as nextTurn } from 'node:timers/promises';
import { SourceError } from '../../format/byte-source.ts';
import { type ChunkTable, chunkLength, verifyChunk } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { OnFilled } from '../../oci/registry-http.ts';
import type { MeshBlob } from '../../p2p/agent/mesh-blob.ts';
import type { ReadStats } from './read-stats.ts';

/**
 * Gets exactly `length` bytes of the blob from `offset`, or rejects. The bytes need not be right. It need not try
 * twice either: it is called again until the reads that wait have waited their time, unless it rejects with
 * {@link FetchRefusedError}. It may tell of what has come while the rest comes, and begin again with another buffer.
 */
export type FetchRange = (
  offset: number,
  length: number,
  signal: AbortSignal,
  onFilled?: OnFilled,
) => Promise<Buffer>;

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
  /** Asked before `fetch`. */
  readonly peers?: MeshBlob;
}

/** The same as {@link fetchRun}, but what the user's peers have comes from them. */
export async function fetchWithPeers(
  table: ChunkTable,
  first: number,
  count: number,
  user: BlobUser,
  signal: AbortSignal,
  deliver: (index: number, bytes: Buffer) => void,
): Promise<number[]> {
  if (user.peers === undefined) return fetchRun(table, first, count, user, signal, deliver);
  const missing = await user.peers.fetchRun(first, count, signal, (index, bytes) => {
    user.stats.chunksFromMesh++;
    user.stats.bytesFromMesh += bytes.length;
    deliver(index, bytes);
  });
  const counted = { ...user, fetch: countingFetch(user.fetch, user.peers) };
  const results = await Promise.allSettled(
    runsOf(missing).map((run) => fetchRun(table, run.first, run.count, counted, signal, deliver)),
  );
  return results.flatMap((result) => {
    if (result.status === 'rejected') throw result.reason;
    return result.value;
  });
}

function countingFetch(fetch: FetchRange, peers: MeshBlob): FetchRange {
  return async (offset, length, signal, onFilled) => {
    const startMs = performance.now();
    let firstMs: number | null = null;
    const bytes = await fetch(offset, length, signal, (buffer, filledBytes) => {
      firstMs ??= performance.now() - startMs;
      onFilled?.(buffer, filledBytes);
    });
    peers.countProxy(bytes.length, firstMs ?? performance.now() - startMs);
    return bytes;
  };
}

/** Neighbours together. */
function runsOf(indexes: readonly number[]): { readonly first: number; count: number }[] {
  const runs: { readonly first: number; count: number }[] = [];
  for (const index of [...indexes].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last !== undefined && index === last.first + last.count) last.count++;
    else runs.push({ first: index, count: 1 });
  }
  return runs;
}

/** Verified without a pause: hashing so much takes a millisecond or two, and all other reads wait meanwhile. */
export const VERIFY_BYTES = 1024 * 1024;

/**
 * Fetches `count` neighbouring chunks in one request. `deliver` gets each chunk that is right, as soon as all of it has
 * come; the indexes of the others are returned.
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
  const corrupt: number[] = [];
  const wrong = new Set<Buffer>();
  let next = first;
  const takeNext = (bytes: Buffer) => {
    const start = (next - first) * table.chunkSize;
    const chunk = bytes.subarray(start, start + chunkLength(table, next));
    const index = next++;
    if (verifyChunk(table, index, chunk)) {
      stats.chunksFetched++;
      deliver(index, chunk);
    } else {
      corrupt.push(index);
      wrong.add(bytes);
    }
  };
  const onFilled = (bytes: Buffer, filledBytes: number) => {
    if (signal.aborted) return;
    while (
      next < first + count &&
      (next - first) * table.chunkSize + chunkLength(table, next) <= filledBytes
    ) {
      takeNext(bytes);
    }
  };
  const bytes = await unlessAborted(fetch(offset, length, signal, onFilled), signal);
  stats.bytesFetched += bytes.length;
  if (bytes.length !== length) {
    throw new SourceError('ERR_SOURCE_SHORT', `${bytes.length} bytes came where ${length} were asked for`);
  }
  while (next < first + count) {
    takeNext(bytes);
    if (((next - first) * table.chunkSize) % VERIFY_BYTES === 0) await nextTurn();
  }
  if (wrong.has(bytes)) onWrongBytes?.(bytes);
  return corrupt;
}

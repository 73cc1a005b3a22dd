import { setTimeout as sleep } from 'node:timers/promises';
import { chunkLength } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { ChunkDisk } from './chunk-disk.ts';
import type { ReadActivity } from './read-activity.ts';
import type { ReadStats } from './read-stats.ts';
import type { SharedBlob } from './shared-blob.ts';
import { chunkCount } from './table-record.ts';

/** One request, so that a read that comes in between does not wait for long. */
const RUN_BYTES = 1024 * 1024;

export interface CompletionOptions {
  /** Of what has to be fetched, on average. */
  readonly bytesPerSecond: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: CompletionProgress) => void;
}

export interface CompletionProgress {
  /** Bytes of the blob that are on disk and right. */
  readonly heldBytes: number;
  readonly blobBytes: number;
}

/**
 * `no-room`: only chunks of blobs that are open could make room for the rest, or the disk takes no more. `closed`: the
 * blob was.
 */
export type CompletionResult = 'complete' | 'no-room' | 'closed';

/**
 * Gets all of a blob onto the disk, slowly: while reads wait for chunks, of whatever blob, it waits. What is there
 * already is verified, and fetched again if it is wrong. Begun again, it goes on where it was.
 * @throws SourceError when a chunk cannot be got; the signal's reason
 */
export async function completeBlob(
  blob: SharedBlob,
  { disk, activity, stats }: { disk: ChunkDisk; activity: ReadActivity; stats: ReadStats },
  options: CompletionOptions,
): Promise<Exclude<CompletionResult, 'closed'>> {
  const { bytesPerSecond, signal, onProgress = () => {} } = options;
  const { record, lastUse, verified } = blob.files;
  const count = chunkCount(record);
  const runChunks = Math.max(1, Math.floor(RUN_BYTES / record.chunkSize));
  signal?.throwIfAborted();
  let heldBytes = 0;
  let isFreeAtMs = performance.now();
  for (let first = 0; first < count; ) {
    const last = Math.min(first + runChunks, count) - 1;
    let missingBytes = 0;
    for (let index = first; index <= last; index++) {
      if (lastUse[index] === 0) missingBytes += chunkLength(record, index);
    }
    if (missingBytes > 0) {
      await pause(isFreeAtMs - performance.now(), signal);
      if (!(await disk.makeRoomWithout(missingBytes))) return 'no-room';
    }
    await activity.idle(signal);
    signal?.throwIfAborted();
    isFreeAtMs = Math.max(isFreeAtMs, performance.now()) + (missingBytes / bytesPerSecond) * 1000;
    await unlessAborted(blob.obtain(first, last, stats), signal);
    for (let index = first; index <= last; index++) {
      if (verified[index] !== 1) return 'no-room';
      heldBytes += chunkLength(record, index);
    }
    onProgress({ heldBytes, blobBytes: record.blobSize });
    first = last + 1;
  }
  return 'complete';
}

async function pause(waitMs: number, signal: AbortSignal | undefined): Promise<void> {
  if (waitMs > 0) await sleep(waitMs, undefined, signal && { signal }).catch(() => {});
  signal?.throwIfAborted();
}

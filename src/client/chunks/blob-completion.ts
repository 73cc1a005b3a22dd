import { setTimeout as sleep } from 'node:timers/promises';
import type { ChunkDisk } from './chunk-disk.ts';
import type { ReadActivity } from './read-activity.ts';
import type { ReadStats } from './read-stats.ts';
import type { SharedBlob } from './shared-blob.ts';
import { chunkCount, chunkLength } from './table-record.ts';

/** One request, so that a read that comes in between does not wait for long. */
const RUN_BYTES = 1024 * 1024;
const FIRST_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 60_000;

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

/** `no-room`: only chunks of blobs that are open could make room for the rest, or the disk takes no more. */
export type CompletionResult = 'complete' | 'no-room';

/**
 * Gets all of a blob onto the disk, slowly: while reads wait for chunks, of whatever blob, it waits. What is there
 * already is verified, and fetched again if it is wrong. A source that fails is tried again later, without end. Begun
 * again, it goes on where it was.
 */
export async function completeBlob(
  blob: SharedBlob,
  { disk, activity, stats }: { disk: ChunkDisk; activity: ReadActivity; stats: ReadStats },
  options: CompletionOptions,
): Promise<CompletionResult> {
  const { bytesPerSecond, signal, onProgress = () => {} } = options;
  const { record, lastUse, verified } = blob.files;
  const count = chunkCount(record);
  const runChunks = Math.max(1, Math.floor(RUN_BYTES / record.chunkSize));
  let heldBytes = 0;
  let isFreeAtMs = performance.now();
  let failures = 0;
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
    try {
      await blob.obtain(first, last, stats);
      failures = 0;
    } catch {
      await pause(Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures++), signal);
      continue;
    }
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

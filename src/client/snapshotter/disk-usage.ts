import { lstatSync, readdirSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isSystemError } from '../../format/error-code.ts';
import type { Usage } from './snapshot-store.ts';

const BLOCK_BYTES = 512;
/** Reads of mounted images wait meanwhile. */
const SLICE_MS = 1;
const SLASH = Buffer.from('/');

/**
 * What a directory takes on disk, itself and all below it: holes take nothing, and what has several names counts
 * once. It is looked at in short slices: a promise for each file would take six times as long.
 */
export async function diskUsage(directory: string, signal?: AbortSignal): Promise<Usage> {
  const linked = new Set<string>();
  // Names are bytes.
  const pending = [Buffer.from(`${directory}/`)];
  let inodes = 1;
  let sizeBytes = (lstatSync(directory, { throwIfNoEntry: false })?.blocks ?? 0) * BLOCK_BYTES;
  let sliceEnd = performance.now() + SLICE_MS;
  for (let current = pending.pop(); current !== undefined; current = pending.pop()) {
    for (const name of namesIn(current)) {
      if (performance.now() >= sliceEnd) {
        await nextTurn();
        signal?.throwIfAborted();
        sliceEnd = performance.now() + SLICE_MS;
      }
      const path = Buffer.concat([current, name]);
      const stat = lstatSync(path, { throwIfNoEntry: false });
      if (stat === undefined) continue;
      if (stat.isDirectory()) {
        pending.push(Buffer.concat([path, SLASH]));
      } else if (stat.nlink > 1) {
        const file = `${stat.dev}:${stat.ino}`;
        if (linked.has(file)) continue;
        linked.add(file);
      }
      inodes++;
      sizeBytes += stat.blocks * BLOCK_BYTES;
    }
  }
  return { inodes, sizeBytes };
}

/** None, if the container that the directory is for has removed it meanwhile. */
function namesIn(directory: Buffer): Buffer[] {
  try {
    return readdirSync(directory, { encoding: 'buffer' });
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return [];
    throw error;
  }
}

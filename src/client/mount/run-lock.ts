import { open } from 'node:fs/promises';
import { type NativeCall, nativeCall } from '../../format/libc.ts';
import { makePrivateDirectory } from './private-directory.ts';

const LOCK_EX = 2;

let flockCall: NativeCall | null = null;

/**
 * Runs `work` while no other process does so with that run directory, which is made if it is missing: whoever
 * finds a dead mount must still find it dead when he removes it, and not somebody's new one in its place. The
 * kernel holds the lock (flock(2)), so it ends with the process however that ends.
 */
export async function withRunLock<T>(runDirectory: string, work: () => Promise<T>): Promise<T> {
  makePrivateDirectory(runDirectory);
  const directory = await open(runDirectory, 'r');
  try {
    flockCall ??= nativeCall('flock', 'int flock(int, int)');
    await flockCall(directory.fd, LOCK_EX);
    return await work();
  } finally {
    await directory.close();
  }
}

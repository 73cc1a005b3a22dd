import { open } from 'node:fs/promises';
import { nativeCall } from '../../format/libc.ts';

const LOCK_EX = 2;

/** Runs `work` while no other set-up of that host runs: flock(2) on its root directory, so that no file is left. */
export async function withSetupLock(root: string, work: () => void): Promise<void> {
  const directory = await open(root);
  try {
    await nativeCall('flock', 'int flock(int, int)')(directory.fd, LOCK_EX);
    work();
  } finally {
    await directory.close();
  }
}

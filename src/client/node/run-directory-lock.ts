import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { pid } from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { type NativeCall, nativeCall, SystemCallError } from '../../format/libc.ts';
import { ClientError } from '../errors.ts';
import { makePrivateDirectory } from '../mount/private-directory.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;
const POLL_MS = 50;

let flockCall: NativeCall | null = null;

/** That a run directory belongs to this process. The kernel holds it (flock(2)), so it ends with the process. */
export class RunDirectoryLock {
  readonly #file: FileHandle;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /**
   * Makes the run directory if it is missing, and takes it.
   * @param waitMs how long to wait for a process that has it and is ending
   * @throws ClientError ERR_NODE_RUNNING that names the process that has it, ERR_DIRECTORY_UNSAFE
   */
  static async take(runDirectory: string, { waitMs = 0 } = {}): Promise<RunDirectoryLock> {
    makePrivateDirectory(runDirectory);
    const file = await open(join(runDirectory, 'node.lock'), 'a+', 0o600);
    try {
      const deadlineMs = performance.now() + waitMs;
      while (!(await isTaken(file))) {
        if (performance.now() >= deadlineMs) throw await takenByOther(file, runDirectory);
        await sleep(POLL_MS);
      }
      await file.truncate(0);
      await file.write(String(pid));
      return new RunDirectoryLock(file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async release(): Promise<void> {
    await this.#file.close();
  }
}

async function isTaken(file: FileHandle): Promise<boolean> {
  flockCall ??= nativeCall('flock', 'int flock(int, int)');
  try {
    await flockCall(file.fd, LOCK_EX | LOCK_NB);
    return true;
  } catch (error) {
    if (error instanceof SystemCallError && ['EAGAIN', 'EWOULDBLOCK'].includes(error.code)) return false;
    throw error;
  }
}

async function takenByOther(file: FileHandle, runDirectory: string): Promise<ClientError> {
  const holder = (await file.readFile('utf8')).trim();
  return new ClientError(
    'ERR_NODE_RUNNING',
    `another dadi node (process ${holder || 'unknown'}) runs with ${runDirectory}: stop it, or give this one another runDirectory`,
  );
}

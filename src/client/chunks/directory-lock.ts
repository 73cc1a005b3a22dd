import { closeSync, openSync } from 'node:fs';
import { type NativeCall, nativeCall, SystemCallError } from '../../format/libc.ts';
import { ClientError } from '../errors.ts';

/** flock(2) */
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

let flock: NativeCall | undefined;

/**
 * Says whose a directory is: this process's alone, or one of several's who share it. The kernel holds the lock, so
 * it ends with the process however that ends.
 */
export class DirectoryLock {
  #descriptor: number | null;

  private constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** @throws ClientError ERR_CACHE_IN_USE */
  static async take(directory: string, kind: 'alone' | 'shared'): Promise<DirectoryLock> {
    const descriptor = openSync(directory, 'r');
    try {
      flock ??= nativeCall('flock', 'int flock(int, int)');
      await flock(descriptor, LOCK_NB | (kind === 'alone' ? LOCK_EX : LOCK_SH));
      return new DirectoryLock(descriptor);
    } catch (cause) {
      closeSync(descriptor);
      if (!(cause instanceof SystemCallError) || !['EAGAIN', 'EWOULDBLOCK'].includes(cause.code)) throw cause;
      const who = kind === 'alone' ? 'a node daemon or a mount' : 'a node daemon';
      throw new ClientError('ERR_CACHE_IN_USE', `${directory} is the chunk cache of ${who} that is running`, {
        cause,
      });
    }
  }

  release(): void {
    if (this.#descriptor !== null) closeSync(this.#descriptor);
    this.#descriptor = null;
  }
}

import { constants } from 'node:os';
import { lastErrno, loadLibrary } from './native.ts';

/** Not in Node's list on every version. */
const ENOTBLK = 15;

/** A failed call of libc. */
export class SystemCallError extends Error {
  override readonly name = 'SystemCallError';
  /** The system's name of the error: EBUSY, EINVAL, … */
  readonly code: string;

  constructor(call: string, errno: number) {
    const names = Object.entries(constants.errno);
    const code =
      errno === ENOTBLK ? 'ENOTBLK' : (names.find(([, number]) => number === errno)?.[0] ?? `E${errno}`);
    super(`${call}: ${code}`);
    this.code = code;
  }
}

export type NativeCall = (...args: unknown[]) => Promise<void>;

/**
 * A function of libc that returns 0 or sets errno. It is called on another thread, since it may wait: for a lock,
 * or for a device that this thread serves.
 */
export function nativeCall(name: string, declaration: string): NativeCall {
  const call = loadLibrary('libc.so.6', 'libc6').func(declaration);
  return (...args) =>
    new Promise((resolve, reject) => {
      call.async(...args, (error: unknown, result: number) => {
        if (error) reject(error);
        else if (result !== 0) reject(new SystemCallError(`${name}(${args[0]}, …)`, lastErrno()));
        else resolve();
      });
    });
}

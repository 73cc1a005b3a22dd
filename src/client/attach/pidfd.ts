import { closeSync } from 'node:fs';
import { SystemCallError } from '../../format/libc.ts';
import { lastErrno, loadLibrary } from '../../format/native.ts';

/** The same number on all of Linux's 64-bit machines. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

type Call = (number: number, first: number, second: number, third: number) => number | bigint;

let systemCall: Call | null = null;

/**
 * A descriptor of our own for what another process has open: pidfd_getfd(2), Linux >= 5.6.
 * @throws SystemCallError ESRCH without such a process, EBADF without such a descriptor, EPERM if we may not
 */
export function takeDescriptor(pid: number, fd: number): number {
  const pidfd = call('pidfd_open', SYS_PIDFD_OPEN, pid, 0, 0);
  try {
    return call('pidfd_getfd', SYS_PIDFD_GETFD, pidfd, fd, 0);
  } finally {
    closeSync(pidfd);
  }
}

function call(name: string, ...args: Parameters<Call>): number {
  systemCall ??= loadLibrary('libc.so.6', 'libc6').func('long syscall(long, long, long, long)');
  const result = Number(systemCall(...args));
  if (result < 0) throw new SystemCallError(`${name}(${args[1]}, …)`, lastErrno());
  return result;
}

import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { SystemCallError } from '../../format/libc.ts';
import { lastErrno, loadLibrary } from '../../format/native.ts';

const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;

let socketpair: ((domain: number, type: number, protocol: number, pair: Int32Array) => number) | null = null;

/** A stream with two ends: one for us, and a descriptor to give away. */
export interface SocketPair {
  readonly socket: Socket;
  readonly otherFd: number;
  /** To be called when somebody else has the descriptor, or nobody will. */
  closeOther(): void;
}

/** @throws SystemCallError */
export function socketPair(): SocketPair {
  socketpair ??= loadLibrary('libc.so.6', 'libc6').func('int socketpair(int, int, int, _Out_ int *)');
  const pair = new Int32Array(2);
  if (socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, pair) !== 0) {
    throw new SystemCallError('socketpair(AF_UNIX, …)', lastErrno());
  }
  const [ours, other] = [pair[0]!, pair[1]!];
  return {
    socket: new Socket({ fd: ours, readable: true, writable: true }),
    otherFd: other,
    closeOther: () => closeSync(other),
  };
}

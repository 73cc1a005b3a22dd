import { type NativeCall, nativeCall } from './libc.ts';

/** linux/falloc.h */
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

let fallocate: NativeCall | undefined;

/**
 * Reserves room for a part of a file, whose size stays what was written (fallocate(2)).
 * @throws SystemCallError EOPNOTSUPP or ENOSYS where the file system cannot
 */
export function reserveRoom(fd: number, offset: number, lengthBytes: number): Promise<void> {
  return call(fd, FALLOC_FL_KEEP_SIZE, offset, lengthBytes);
}

/**
 * Frees the room that a part of a file takes: it reads as zeros from then on.
 * @throws SystemCallError EOPNOTSUPP or ENOSYS where the file system cannot
 */
export function punchHole(fd: number, offset: number, lengthBytes: number): Promise<void> {
  return call(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, lengthBytes);
}

function call(
  ...args: readonly [fd: number, mode: number, offset: number, lengthBytes: number]
): Promise<void> {
  fallocate ??= nativeCall('fallocate', 'int fallocate(int fd, int mode, int64_t offset, int64_t length)');
  return fallocate(...args);
}

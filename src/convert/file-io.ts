import { readSync, writeSync } from 'node:fs';

/** Fills `target` from `offset` of a file, synchronously: for worker threads only. Throws RangeError at the file's end. */
export function readFully(fd: number, target: Buffer, offset: number): void {
  let done = 0;
  while (done < target.length) {
    const count = readSync(fd, target, done, target.length - done, offset + done);
    if (count === 0) throw new RangeError(`the file ends before byte ${offset + target.length}`);
    done += count;
  }
}

/** Writes all of `bytes` at `offset` of a file, synchronously: for worker threads only. */
export function writeFully(fd: number, bytes: Buffer, offset: number): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
}

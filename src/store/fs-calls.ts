import * as fs from 'node:fs';
import { promisify } from 'node:util';

// Numeric descriptors throughout: a FileHandle that is collected while a read is under way closes the file.
export const openFd = promisify(fs.open) as (path: string, flags: string) => Promise<number>;
export const closeFd = promisify(fs.close);
export const fsyncFd = promisify(fs.fsync);
const writeFd = promisify(fs.write);

/** Writes all of `bytes` at `offset`. */
export async function writeAll(fd: number, bytes: Buffer, offset: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesWritten } = await writeFd(fd, bytes, done, bytes.length - done, offset + done);
    done += bytesWritten;
  }
}

/** Makes a file's bytes, or a directory's entries, durable. */
export async function fsyncPath(path: string): Promise<void> {
  const fd = await openFd(path, 'r');
  try {
    await fsyncFd(fd);
  } finally {
    await closeFd(fd);
  }
}

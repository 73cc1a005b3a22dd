import { hash } from 'node:crypto';
import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { type Digest, type DigestAlgorithm, Digester } from '../oci/digest.ts';

const HASH_PIECE_BYTES = 1024 * 1024;

// Numeric descriptors throughout: a FileHandle that is collected while a read is under way closes the file.
export const openFd = promisify(fs.open) as (path: string, flags: string) => Promise<number>;
export const closeFd = promisify(fs.close);
export const fsyncFd = promisify(fs.fsync);
const writevFd = promisify(fs.writev);
const readFd = promisify(fs.read);

/** Writes all of `pieces`, one behind the other, from `offset` on. */
export async function writeAll(fd: number, pieces: readonly Buffer[], offset: number): Promise<void> {
  let left = pieces.filter((piece) => piece.length > 0);
  let position = offset;
  while (left.length > 0) {
    const { bytesWritten } = await writevFd(fd, left.slice(0, MAX_PIECES), position);
    position += bytesWritten;
    left = withoutFirst(left, bytesWritten);
  }
}

/** Of one system call (IOV_MAX). */
const MAX_PIECES = 1024;

function withoutFirst(pieces: readonly Buffer[], bytes: number): Buffer[] {
  let skip = bytes;
  const left: Buffer[] = [];
  for (const piece of pieces) {
    if (skip < piece.length) left.push(piece.subarray(skip));
    skip = Math.max(0, skip - piece.length);
  }
  return left;
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

/** The digest of a file's bytes. Rejects with the signal's reason. */
export async function hashFile(
  path: string,
  algorithm: DigestAlgorithm,
  signal?: AbortSignal,
): Promise<Digest> {
  const fd = await openFd(path, 'r');
  try {
    const digester = new Digester(algorithm);
    const piece = Buffer.allocUnsafeSlow(HASH_PIECE_BYTES);
    while (true) {
      signal?.throwIfAborted();
      const { bytesRead } = await readFd(fd, piece, 0, piece.length, null);
      if (bytesRead === 0) return digester.digest();
      digester.update(piece.subarray(0, bytesRead));
    }
  } finally {
    await closeFd(fd);
  }
}

/** The size of a file, and the SHA-256 of each chunk of it, one behind the other. */
export async function chunkDigests(
  path: string,
  chunkSize: number,
): Promise<{ readonly sizeBytes: number; readonly digests: Buffer }> {
  const fd = await openFd(path, 'r');
  try {
    const digests: Buffer[] = [];
    const piece = Buffer.allocUnsafeSlow(4 * chunkSize);
    for (let sizeBytes = 0; ; ) {
      const filled = await readUpTo(fd, piece, sizeBytes);
      for (let at = 0; at < filled; at += chunkSize) {
        digests.push(hash('sha256', piece.subarray(at, Math.min(at + chunkSize, filled)), 'buffer'));
      }
      sizeBytes += filled;
      if (filled < piece.length) return { sizeBytes, digests: Buffer.concat(digests) };
    }
  } finally {
    await closeFd(fd);
  }
}

/** Fills `target`, unless the file ends before. */
async function readUpTo(fd: number, target: Buffer, offset: number): Promise<number> {
  for (let done = 0; ; ) {
    const { bytesRead } = await readFd(fd, target, done, target.length - done, offset + done);
    done += bytesRead;
    if (bytesRead === 0 || done === target.length) return done;
  }
}

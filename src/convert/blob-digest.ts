import { createHash, hash } from 'node:crypto';
import { readSync } from 'node:fs';
import type { ChunkTable } from '../format/chunk-table.ts';

const DIGEST_BYTES = 32;

/** Reads a finished blob once: its own digest, and the digest of each of its chunks. For worker threads. */
export function digestBlob(
  fd: number,
  sizeBytes: number,
  chunkSize: number,
): { digest: string; table: ChunkTable } {
  const whole = createHash('sha256');
  const digests = Buffer.alloc(Math.ceil(sizeBytes / chunkSize) * DIGEST_BYTES);
  const buffer = Buffer.allocUnsafe(chunkSize);
  for (let index = 0; index * chunkSize < sizeBytes; index++) {
    const length = Math.min(chunkSize, sizeBytes - index * chunkSize);
    const count = readSync(fd, buffer, 0, length, index * chunkSize);
    if (count !== length)
      throw new RangeError(`the blob ends in chunk ${index}: ${count} of ${length} bytes`);
    const chunk = buffer.subarray(0, length);
    whole.update(chunk);
    hash('sha256', chunk, 'buffer').copy(digests, index * DIGEST_BYTES);
  }
  return { digest: `sha256:${whole.digest('hex')}`, table: { chunkSize, blobSize: sizeBytes, digests } };
}

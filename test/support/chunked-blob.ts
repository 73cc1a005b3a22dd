import { createHash } from 'node:crypto';
import type { FetchRange } from '../../src/client/chunks/chunk-fetcher.ts';
import type { ChunkTable } from '../../src/format/chunk-table.ts';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { randomBytes } from './random-bytes.ts';

/** A blob, how it is verified, and where it comes from. */
export interface ChunkedBlob {
  readonly bytes: Buffer;
  readonly digest: Digest;
  readonly table: ChunkTable;
  /** Ranges as they were asked for: first chunk and number of chunks. */
  readonly requests: [number, number][];
  /** Gives what is asked for, and notes it. */
  readonly fetch: FetchRange;
}

export const CHUNK_BYTES = 4096;

/** Random bytes, the same for the same seed. */
export function chunkedBlob(chunks: number, seed: number, chunkSize = CHUNK_BYTES): ChunkedBlob {
  const bytes = randomBytes(chunks * chunkSize, seed);
  const digests = Array.from({ length: chunks }, (_, i) =>
    createHash('sha256')
      .update(bytes.subarray(i * chunkSize, (i + 1) * chunkSize))
      .digest(),
  );
  const requests: [number, number][] = [];
  return {
    bytes,
    digest: digestOf(bytes),
    table: { chunkSize, blobSize: bytes.length, digests: Buffer.concat(digests) },
    requests,
    fetch: async (offset, length) => {
      requests.push([offset / chunkSize, Math.ceil(length / chunkSize)]);
      return Buffer.from(bytes.subarray(offset, offset + length));
    },
  };
}

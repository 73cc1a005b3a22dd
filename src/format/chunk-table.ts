import { createHash } from 'node:crypto';
import { FormatError } from './errors.ts';

/** The unit in which blobs are fetched, cached and verified, if nothing else is asked for. */
export const DEFAULT_CHUNK_BYTES = 262_144;

/** Of a table whose blob's size is not known: it is of 128 GiB, in chunks of that size. */
export const MAX_CHUNK_TABLE_BYTES = 16 * 1024 * 1024;

/** What lets every chunk of a blob be verified on its own. */
export interface ChunkTable {
  /** Bytes of each chunk but the last. */
  readonly chunkSize: number;
  /** Bytes. */
  readonly blobSize: number;
  /** SHA-256 of each chunk, 32 bytes each. */
  readonly digests: Buffer;
}

/*
 * A format of our own, little-endian:
 *   0  magic "DADIchnk"   8  version u32   12  chunk size u32   16  blob size u64   24  digests, 32 bytes each
 */
const MAGIC = Buffer.from('DADIchnk', 'latin1');
const VERSION = 1;
const HEADER_BYTES = 24;
const DIGEST_BYTES = 32;
const MIN_CHUNK_BYTES = 4096;
const MAX_CHUNK_BYTES = 64 * 1024 * 1024;

/** @throws FormatError ERR_CHUNK_TABLE_CORRUPT if the numbers do not fit together */
export function encodeChunkTable(table: ChunkTable): Buffer {
  checkTable(table);
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(table.chunkSize, 12);
  header.writeBigUInt64LE(BigInt(table.blobSize), 16);
  return Buffer.concat([header, table.digests]);
}

/** The digests of the result are a view of `bytes`. @throws FormatError ERR_CHUNK_TABLE_CORRUPT, ERR_UNSUPPORTED */
export function decodeChunkTable(bytes: Buffer): ChunkTable {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC))
    throw corrupt('no magic number');
  const version = bytes.readUInt32LE(8);
  if (version !== VERSION) throw new FormatError('ERR_UNSUPPORTED', `chunk table of version ${version}`);
  const table = {
    chunkSize: bytes.readUInt32LE(12),
    blobSize: Number(bytes.readBigUInt64LE(16)),
    digests: bytes.subarray(HEADER_BYTES),
  };
  checkTable(table);
  return table;
}

/** Whether `bytes` are chunk `index` of the blob, whole. */
export function verifyChunk(table: ChunkTable, index: number, bytes: Buffer): boolean {
  const expected = table.digests.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
  return createHash('sha256').update(bytes).digest().equals(expected);
}

/** Bytes of one chunk: the last one may be short. */
export function chunkLength(
  { blobSize, chunkSize }: Pick<ChunkTable, 'blobSize' | 'chunkSize'>,
  index: number,
): number {
  return Math.min(chunkSize, blobSize - index * chunkSize);
}

function checkTable({ chunkSize, blobSize, digests }: ChunkTable): void {
  const isPowerOfTwo = (chunkSize & (chunkSize - 1)) === 0;
  if (chunkSize < MIN_CHUNK_BYTES || chunkSize > MAX_CHUNK_BYTES || !isPowerOfTwo) {
    throw corrupt(`chunks of ${chunkSize} bytes`);
  }
  if (
    !Number.isSafeInteger(blobSize) ||
    blobSize < 0 ||
    digests.length !== Math.ceil(blobSize / chunkSize) * DIGEST_BYTES
  ) {
    throw corrupt(`${digests.length} bytes of digests for a blob of ${blobSize} in chunks of ${chunkSize}`);
  }
}

function corrupt(what: string): FormatError {
  return new FormatError('ERR_CHUNK_TABLE_CORRUPT', `chunk table: ${what}`);
}

import type { Algorithm } from './block-codec.ts';
import { crc32c } from './crc32c.ts';
import { FormatError } from './errors.ts';

/** Header and trailer of a ZFile have the same form and this length. */
export const ZFILE_HEADER_BYTES = 512;

/** Bytes of the checksum behind each block of a ZFile with `verify`. */
export const BLOCK_CRC_BYTES = 4;

/** What the checksum of a block starts from. */
export const BLOCK_CRC_INITIAL = 100_007;

/** Uncompressed lengths of a block that the format knows. */
export const ZFILE_BLOCK_SIZES: readonly number[] = [4096, 8192, 16_384, 32_768, 65_536];

export interface ZFileHeader {
  /** Which of the two it is. */
  readonly kind: 'header' | 'trailer';
  /** Headers only: it was completed afterwards, the trailer need not be read. */
  readonly overwritten: boolean;
  /** The checksums of header and index are there. */
  readonly hasDigests: boolean;
  /** Byte offset of the index in the ZFile. */
  readonly indexOffset: number;
  /** Entries, which is to say blocks. */
  readonly indexEntries: number;
  readonly indexCrc: number;
  /** Uncompressed bytes. */
  readonly originalSize: number;
  /** Uncompressed bytes of each block but the last. */
  readonly blockSize: number;
  readonly algorithm: Algorithm;
  /** A checksum follows each block. */
  readonly verify: boolean;
  /** Bytes between the header and the first block. */
  readonly dictionarySize: number;
}

const MAGIC = Buffer.from('5a46696c65000100' + '74756a692e79796640416c6962616261', 'hex');
const STRUCT_BYTES = 96;
const FLAG = { header: 1, data: 2, sealed: 4, overwritten: 8, digests: 16, compressedIndex: 32 } as const;
const ALGORITHM_NUMBERS: Readonly<Record<Algorithm, number>> = { lz4: 1, zstd: 2 };
const AT = {
  size: 24,
  digest: 28,
  flags: 32,
  indexOffset: 40,
  indexEntries: 48,
  originalSize: 56,
  indexCrc: 64,
  blockSize: 72,
  algorithm: 76,
  useDictionary: 78,
  dictionarySize: 84,
  verify: 88,
} as const;

/** Whether a ZFile may begin with these bytes (at least 24). */
export function hasZFileMagic(bytes: Buffer): boolean {
  return bytes.subarray(0, MAGIC.length).equals(MAGIC);
}

/** The 512 bytes of a header or trailer, its own checksum included. */
export function encodeZFileHeader(header: ZFileHeader): Buffer {
  const bytes = Buffer.alloc(ZFILE_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(STRUCT_BYTES, AT.size);
  // The stock tools never set "sealed" in a header and always do in a trailer.
  const kind = header.kind === 'header' ? FLAG.header : FLAG.sealed;
  const overwritten = header.overwritten ? FLAG.overwritten : 0;
  bytes.writeUInt32LE(kind | FLAG.data | overwritten | (header.hasDigests ? FLAG.digests : 0), AT.flags);
  writeUInt64(bytes, header.indexOffset, AT.indexOffset);
  writeUInt64(bytes, header.indexEntries, AT.indexEntries);
  writeUInt64(bytes, header.originalSize, AT.originalSize);
  bytes.writeUInt32LE(header.indexCrc, AT.indexCrc);
  bytes.writeUInt32LE(header.blockSize, AT.blockSize);
  bytes.writeUInt8(ALGORITHM_NUMBERS[header.algorithm], AT.algorithm);
  bytes.writeUInt32LE(header.dictionarySize, AT.dictionarySize);
  bytes.writeUInt8(header.verify ? 1 : 0, AT.verify);
  if (header.hasDigests) bytes.writeUInt32LE(crc32c(bytes, 0), AT.digest);
  return bytes;
}

/**
 * Reads a header or trailer (512 bytes) and checks what can be checked without the rest of the file. Bits that
 * the format does not define are ignored: a widely used base layer has garbage in them.
 *
 * @throws FormatError ERR_ZFILE_CORRUPT, or ERR_UNSUPPORTED for a dictionary, a compressed index, another
 *   algorithm or block size
 */
export function decodeZFileHeader(bytes: Buffer, kind: ZFileHeader['kind']): ZFileHeader {
  if (bytes.length !== ZFILE_HEADER_BYTES || !hasZFileMagic(bytes))
    throw corrupt(kind, 'has no magic number');
  const size = bytes.readUInt32LE(AT.size);
  if (size !== STRUCT_BYTES) throw corrupt(kind, `claims ${size} bytes`);
  const flags = bytes.readUInt32LE(AT.flags);
  checkFlags(kind, flags);
  const hasDigests = (flags & FLAG.digests) !== 0;
  if (hasDigests) checkDigest(kind, bytes);
  if (bytes.readUInt8(AT.useDictionary) !== 0) throw unsupported(kind, 'a dictionary');
  return {
    kind,
    overwritten: (flags & FLAG.overwritten) !== 0,
    hasDigests,
    indexOffset: readUInt64(bytes, AT.indexOffset),
    indexEntries: readUInt64(bytes, AT.indexEntries),
    indexCrc: bytes.readUInt32LE(AT.indexCrc),
    originalSize: readUInt64(bytes, AT.originalSize),
    blockSize: readBlockSize(kind, bytes),
    algorithm: readAlgorithm(kind, bytes),
    verify: bytes.readUInt8(AT.verify) !== 0,
    dictionarySize: bytes.readUInt32LE(AT.dictionarySize),
  };
}

function checkFlags(kind: ZFileHeader['kind'], flags: number): void {
  const isHeader = (flags & FLAG.header) !== 0;
  if (isHeader !== (kind === 'header')) throw corrupt(kind, 'is not marked as one');
  if ((flags & FLAG.data) === 0) throw corrupt(kind, 'is not marked as that of a data file');
  if (kind === 'trailer' && (flags & FLAG.sealed) === 0) throw corrupt(kind, 'is not sealed');
  if ((flags & FLAG.compressedIndex) !== 0) throw unsupported(kind, 'a compressed index');
}

function checkDigest(kind: ZFileHeader['kind'], bytes: Buffer): void {
  const copy = Buffer.from(bytes);
  copy.writeUInt32LE(0, AT.digest);
  if (crc32c(copy, 0) !== bytes.readUInt32LE(AT.digest)) throw corrupt(kind, 'does not match its checksum');
}

function readBlockSize(kind: ZFileHeader['kind'], bytes: Buffer): number {
  const blockSize = bytes.readUInt32LE(AT.blockSize);
  if (!ZFILE_BLOCK_SIZES.includes(blockSize)) throw unsupported(kind, `blocks of ${blockSize} bytes`);
  return blockSize;
}

function readAlgorithm(kind: ZFileHeader['kind'], bytes: Buffer): Algorithm {
  const number = bytes.readUInt8(AT.algorithm);
  if (number === ALGORITHM_NUMBERS.lz4) return 'lz4';
  if (number === ALGORITHM_NUMBERS.zstd) return 'zstd';
  throw unsupported(kind, `compression algorithm ${number}`);
}

/** Values above 2^53 lose their last bits, which leaves them far outside any file. */
function readUInt64(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;
}

function writeUInt64(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32LE(value % 2 ** 32, at);
  bytes.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function corrupt(kind: ZFileHeader['kind'], what: string): FormatError {
  return new FormatError('ERR_ZFILE_CORRUPT', `the ${kind} of the ZFile ${what}`);
}

function unsupported(kind: ZFileHeader['kind'], what: string): FormatError {
  return new FormatError('ERR_UNSUPPORTED', `the ${kind} of the ZFile asks for ${what}`);
}

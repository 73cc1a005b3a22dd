import { FormatError } from './errors.ts';

/** Header and trailer of an LSMT file have the same form and this length. */
export const LSMT_HEADER_BYTES = 4096;

/** Bytes of an index entry. */
export const INDEX_ENTRY_BYTES = 16;

/** Index entries that one layer may have, padding aside. */
export const MAX_LAYER_SEGMENTS = 1_000_000;

export interface LsmtHeader {
  /** A header stands at the beginning of a file, a trailer at its end. */
  readonly isHeader: boolean;
  readonly isDataFile: boolean;
  /** The layer is finished. */
  readonly isSealed: boolean;
  /** Byte offset of the index in the file. */
  readonly indexOffset: number;
  readonly indexEntries: number;
  /** Bytes of the device. */
  readonly virtualSize: number;
  /** 8-4-4-4-12 hexadecimal digits; lower case here, upper case on disk. */
  readonly uuid: string;
  /** Of the layer below; all zero if there is none. */
  readonly parentUuid: string;
  /** At most 255 bytes of UTF-8. */
  readonly userTag: string;
}

const MAGIC = Buffer.from('4c534d5400010200' + '657e63d29444084ca2d2c8ec4fcfae8a', 'hex');
const STRUCT_BYTES = 390;
const FLAG = { header: 1, data: 2, sealed: 4 } as const;
const AT = {
  size: 24,
  flags: 28,
  indexOffset: 32,
  indexEntries: 40,
  virtualSize: 48,
  uuid: 56,
  parentUuid: 93,
  version: 132,
  subVersion: 133,
  userTag: 134,
} as const;
const UUID_CHARS = 36;
const USER_TAG_BYTES = STRUCT_BYTES - AT.userTag;
const UUID_PATTERN = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Whether an LSMT file may begin with these bytes (at least 24). */
export function hasLsmtMagic(bytes: Buffer): boolean {
  return bytes.subarray(0, MAGIC.length).equals(MAGIC);
}

/** The 4096 bytes of a header or trailer. */
export function encodeLsmtHeader(header: LsmtHeader): Buffer {
  const bytes = Buffer.alloc(LSMT_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(STRUCT_BYTES, AT.size);
  const { isHeader, isDataFile, isSealed } = header;
  bytes.writeUInt32LE(
    (isHeader ? FLAG.header : 0) | (isDataFile ? FLAG.data : 0) | (isSealed ? FLAG.sealed : 0),
    AT.flags,
  );
  bytes.writeBigUInt64LE(BigInt(header.indexOffset), AT.indexOffset);
  bytes.writeBigUInt64LE(BigInt(header.indexEntries), AT.indexEntries);
  bytes.writeBigUInt64LE(BigInt(header.virtualSize), AT.virtualSize);
  writeUuid(bytes, AT.uuid, header.uuid);
  writeUuid(bytes, AT.parentUuid, header.parentUuid);
  bytes.writeUInt8(1, AT.version);
  bytes.writeUInt8(1, AT.subVersion);
  const userTag = Buffer.from(header.userTag, 'utf8');
  if (userTag.length >= USER_TAG_BYTES)
    throw new RangeError(`a user tag of ${userTag.length} bytes is too long`);
  userTag.copy(bytes, AT.userTag);
  return bytes;
}

/** @throws FormatError ERR_LSMT_CORRUPT, or ERR_UNSUPPORTED for another version */
export function decodeLsmtHeader(bytes: Buffer): LsmtHeader {
  if (bytes.length !== LSMT_HEADER_BYTES || !hasLsmtMagic(bytes)) throw corrupt('no magic number');
  const size = bytes.readUInt32LE(AT.size);
  if (size !== STRUCT_BYTES) throw corrupt(`a claim of ${size} bytes`);
  const version = bytes.readUInt8(AT.version);
  if (version !== 1)
    throw new FormatError('ERR_UNSUPPORTED', `LSMT files of version ${version} are not read`);
  const flags = bytes.readUInt32LE(AT.flags);
  return {
    isHeader: (flags & FLAG.header) !== 0,
    isDataFile: (flags & FLAG.data) !== 0,
    isSealed: (flags & FLAG.sealed) !== 0,
    indexOffset: readSize(bytes, AT.indexOffset, 'index offset'),
    indexEntries: readSize(bytes, AT.indexEntries, 'index size'),
    virtualSize: readSize(bytes, AT.virtualSize, 'virtual size'),
    uuid: readText(bytes, AT.uuid, UUID_CHARS).toLowerCase(),
    parentUuid: readText(bytes, AT.parentUuid, UUID_CHARS).toLowerCase(),
    userTag: readText(bytes, AT.userTag, USER_TAG_BYTES),
  };
}

function writeUuid(bytes: Buffer, at: number, uuid: string): void {
  const lower = uuid.toLowerCase();
  if (!UUID_PATTERN.test(lower)) throw new RangeError(`"${uuid}" is not a UUID`);
  bytes.write(lower.toUpperCase(), at, 'latin1');
}

function readSize(bytes: Buffer, at: number, what: string): number {
  const value = Number(bytes.readBigUInt64LE(at));
  if (!Number.isSafeInteger(value)) throw corrupt(`${what} ${value}`);
  return value;
}

function readText(bytes: Buffer, at: number, maxLength: number): string {
  const field = bytes.subarray(at, at + maxLength);
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? maxLength : end);
}

function corrupt(what: string): FormatError {
  return new FormatError('ERR_LSMT_CORRUPT', `header or trailer of an LSMT file with ${what}`);
}

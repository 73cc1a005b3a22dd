import type { ByteString } from './byte-string.ts';
import { FormatError } from './errors.ts';

/** Everything in a tar archive is in blocks of this size. */
export const TAR_BLOCK_BYTES = 512;

const ZERO_BLOCK = Buffer.alloc(TAR_BLOCK_BYTES);

/**
 * Which fields a header block has behind the first 257 bytes: none (v7); the prefix of POSIX.1 (ustar, pax);
 * star's shorter prefix; GNU's times and sparse map.
 */
export type TarDialect = 'v7' | 'ustar' | 'star' | 'gnu';

/** A header block's fields, as they stand in it. */
export interface TarHeader {
  readonly dialect: TarDialect;
  /** Prefix included. */
  readonly path: ByteString;
  /** The 12 permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  readonly mtimeSeconds: number;
  /** One character; NUL is v7's regular file. */
  readonly typeflag: ByteString;
  readonly linkTarget: ByteString;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
}

/** Whether a block holds zeros only: two of them in a row end an archive. */
export function isZeroBlock(block: Buffer): boolean {
  return block[0] === 0 && block.equals(ZERO_BLOCK);
}

/**
 * Reads one header block (POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format").
 * Throws ERR_TAR_CORRUPT where the checksum or a number is wrong, ERR_LIMIT where a number passes 2^53.
 */
export function decodeHeader(block: Buffer): TarHeader {
  checkChecksum(block);
  const dialect = dialectOf(block);
  const name = readString(block, 0, 100);
  const prefix = readPrefix(block, dialect);
  const path = prefix === '' ? name : `${prefix}/${name}`;
  const typeflag = String.fromCharCode(block[156]!);
  // Other types leave whatever they like in the device fields.
  const isDevice = dialect !== 'v7' && (typeflag === '3' || typeflag === '4');
  return {
    dialect,
    path,
    mode: safeNumber(block, 100, 108, 'mode') & 0o7777,
    uid: safeNumber(block, 108, 116, 'uid'),
    gid: safeNumber(block, 116, 124, 'gid'),
    sizeBytes: safeNumber(block, 124, 136, 'size'),
    mtimeSeconds: safeNumber(block, 136, 148, 'mtime'),
    typeflag,
    linkTarget: readString(block, 157, 257),
    deviceMajor: isDevice ? safeNumber(block, 329, 337, 'device major') : 0,
    deviceMinor: isDevice ? safeNumber(block, 337, 345, 'device minor') : 0,
  };
}

function safeNumber(block: Buffer, start: number, end: number, what: string): number {
  const value = readNumber(block, start, end);
  if (value === null) throw new FormatError('ERR_TAR_CORRUPT', `its ${what} is not a number`);
  if (!Number.isSafeInteger(value)) throw new FormatError('ERR_LIMIT', `its ${what} is beyond 2^53`);
  return value;
}

/** The bytes of a fixed-width field up to its first NUL. */
export function readString(block: Buffer, start: number, end: number): ByteString {
  let stop = start;
  while (stop < end && block[stop] !== 0) stop++;
  return stop === start ? '' : block.toString('latin1', start, stop);
}

/**
 * A number of a fixed-width field: octal digits, or base-256 (two's complement) where the first bit is set.
 * Not exact beyond 2^53; null where the field is neither.
 */
export function readNumber(block: Buffer, start: number, end: number): number | null {
  const first = block[start] ?? 0;
  return (first & 0x80) === 0 ? readOctal(block, start, end) : readBase256(block, start, end);
}

function readOctal(block: Buffer, start: number, end: number): number | null {
  let at = start;
  while (at < end && (block[at] === 0x20 || block[at] === 0)) at++;
  let value = 0;
  for (; at < end; at++) {
    const byte = block[at]!;
    if (byte < 0x30 || byte > 0x37) break;
    value = value * 8 + (byte - 0x30);
  }
  while (at < end && block[at] === 0x20) at++;
  // What stands behind the NUL that ends a field is nobody's.
  return at === end || block[at] === 0 ? value : null;
}

function readBase256(block: Buffer, start: number, end: number): number {
  const first = block[start]!;
  // The first bit marks the encoding, the second is the sign.
  const negative = (first & 0x40) !== 0;
  let value = negative ? ~first & 0x3f : first & 0x3f;
  for (let at = start + 1; at < end; at++) {
    const byte = block[at]!;
    value = value * 256 + (negative ? byte ^ 0xff : byte);
  }
  return negative ? -value - 1 : value;
}

/** The sum of all bytes, with the checksum's own eight counted as spaces. */
function checkChecksum(block: Buffer): void {
  const stored = readOctal(block, 148, 156);
  let sum = 8 * 0x20;
  for (let at = 0; at < 148; at++) sum += block[at]!;
  for (let at = 156; at < TAR_BLOCK_BYTES; at++) sum += block[at]!;
  if (stored === sum) return;
  // Some old writers added the bytes as signed ones.
  for (let at = 0; at < TAR_BLOCK_BYTES; at++) {
    if (block[at]! >= 0x80 && (at < 148 || at >= 156)) sum -= 256;
  }
  if (stored !== sum) {
    throw new FormatError('ERR_TAR_CORRUPT', 'no tar header: its checksum does not match');
  }
}

function dialectOf(block: Buffer): TarDialect {
  if (holds(block, 257, 'ustar  \0')) return 'gnu';
  if (!holds(block, 257, 'ustar\0')) return 'v7';
  return holds(block, 508, 'tar\0') ? 'star' : 'ustar';
}

function holds(block: Buffer, start: number, magic: ByteString): boolean {
  for (let index = 0; index < magic.length; index++) {
    if (block[start + index] !== magic.charCodeAt(index)) return false;
  }
  return true;
}

function readPrefix(block: Buffer, dialect: TarDialect): ByteString {
  switch (dialect) {
    case 'v7':
      return '';
    case 'ustar':
      return readString(block, 345, 500);
    case 'star':
      return readString(block, 345, 476);
    case 'gnu':
      return hasMistakenPrefix(block) ? readString(block, 345, 500) : '';
  }
}

/**
 * Go before 1.8, and so Docker of that time, wrote a ustar prefix into GNU headers, where atime (345) and
 * ctime (357) belong: such layers are still in registries. They are known by times that are no numbers.
 */
function hasMistakenPrefix(block: Buffer): boolean {
  const isTime = (start: number) => block[start] === 0 || readNumber(block, start, start + 12) !== null;
  if (isTime(345) && isTime(357)) return false;
  return /^[ -~]*$/.test(readString(block, 345, 500));
}

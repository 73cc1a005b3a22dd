import type { ByteString } from './byte-string.ts';
import { toDisplay } from './byte-string.ts';
import { FormatError } from './errors.ts';

/** The body of an extended header or a long name may have this size, as in Go's reader. */
export const MAX_EXTENDED_HEADER_BYTES = 1024 * 1024;

const SCHILY_XATTR = 'SCHILY.xattr.';
const LIBARCHIVE_XATTR = 'LIBARCHIVE.xattr.';
const GNU_SPARSE = 'GNU.sparse.';
const FIELDS: ReadonlySet<string> = new Set([
  'path',
  'linkpath',
  'size',
  'uid',
  'gid',
  'mtime',
  'SCHILY.devmajor',
  'SCHILY.devminor',
]);

/** What an extended header says, in so far as it is understood here; everything else is left out. */
export interface PaxRecords {
  /** By keyword. An empty value means "as in the header block" (POSIX.1-2017 pax, "pax Extended Header"). */
  readonly fields: Map<ByteString, Buffer>;
  /**
   * By full name. An empty value is an empty attribute, as GNU tar and containerd have it. star's records (SCHILY)
   * go before those of libarchive, which writes both and which alone reads its own.
   */
  readonly xattrs: Map<ByteString, Buffer>;
  /** `GNU.sparse.offset` and `.numbytes` of format 0.0, which repeat: pairs, in order. */
  readonly sparsePairs: number[];
}

export interface Timestamp {
  /** May be negative. */
  readonly seconds: number;
  /** 0 to 999,999,999, counted upwards from the seconds. */
  readonly nanoseconds: number;
}

/**
 * Splits the body of an extended header into its records, each "LENGTH KEYWORD=VALUE\n": the length counts, so
 * values may hold any byte. The values are copies. Throws ERR_TAR_CORRUPT.
 */
export function parsePaxRecords(body: Buffer): PaxRecords {
  const fields = new Map<ByteString, Buffer>();
  const xattrs = new Map<ByteString, Buffer>();
  const libarchiveXattrs = new Map<ByteString, Buffer>();
  const sparsePairs: number[] = [];
  for (let start = 0; start < body.length; ) {
    const { keyword, value, end } = readRecord(body, start);
    start = end;
    const name = xattrName(keyword);
    if (name !== null) {
      if (name === '' || name.includes('\0')) {
        throw new FormatError('ERR_TAR_CORRUPT', 'extended header: an xattr without a proper name');
      }
      if (keyword.startsWith(SCHILY_XATTR)) xattrs.set(name, Buffer.from(value));
      else libarchiveXattrs.set(name, Buffer.from(value.toString('latin1'), 'base64'));
    } else if (keyword === 'GNU.sparse.offset' || keyword === 'GNU.sparse.numbytes') {
      if ((sparsePairs.length % 2 === 0) !== (keyword === 'GNU.sparse.offset')) {
        throw new FormatError('ERR_TAR_CORRUPT', `extended header: ${keyword} out of turn`);
      }
      sparsePairs.push(parseCount(value.toString('latin1'), keyword));
    } else if (FIELDS.has(keyword) || keyword.startsWith(GNU_SPARSE)) {
      fields.set(keyword, Buffer.from(value));
    }
  }
  for (const [name, value] of libarchiveXattrs) {
    if (!xattrs.has(name)) xattrs.set(name, value);
  }
  return { fields, xattrs, sparsePairs };
}

interface PaxRecord {
  readonly keyword: ByteString;
  readonly value: Buffer;
  readonly end: number;
}

function readRecord(body: Buffer, start: number): PaxRecord {
  const broken = () =>
    new FormatError('ERR_TAR_CORRUPT', `extended header: a broken record at its byte ${start}`);
  let at = start;
  let length = 0;
  for (; at < body.length && at - start < 10; at++) {
    const digit = body[at]! - 0x30;
    if (digit < 0 || digit > 9) break;
    length = length * 10 + digit;
  }
  const end = start + length;
  if (at === start || body[at] !== 0x20 || end > body.length || end <= at + 1 || body[end - 1] !== 0x0a) {
    throw broken();
  }
  const equals = body.indexOf(0x3d, at + 1);
  if (equals <= at + 1 || equals >= end) throw broken();
  return { keyword: body.toString('latin1', at + 1, equals), value: body.subarray(equals + 1, end - 1), end };
}

function xattrName(keyword: ByteString): ByteString | null {
  // As it stands: what GNU tar escapes in names ('=' and '%'), container runtimes do not.
  if (keyword.startsWith(SCHILY_XATTR)) return keyword.slice(SCHILY_XATTR.length);
  if (!keyword.startsWith(LIBARCHIVE_XATTR)) return null;
  return keyword
    .slice(LIBARCHIVE_XATTR.length)
    .replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** A decimal number, not negative. Throws ERR_TAR_CORRUPT, or ERR_LIMIT beyond 2^53. */
export function parseCount(text: ByteString, what: string): number {
  return parseNumber(text, what, /^\+?[0-9]+$/);
}

/** As {@link parseCount}, but it may be negative. */
export function parseInteger(text: ByteString, what: string): number {
  return parseNumber(text, what, /^[+-]?[0-9]+$/);
}

function parseNumber(text: ByteString, what: string, form: RegExp): number {
  if (!form.test(text)) {
    throw new FormatError('ERR_TAR_CORRUPT', `extended header: ${what} is not a number: ${shorten(text)}`);
  }
  const value = Number(text);
  if (!Number.isSafeInteger(value)) {
    throw new FormatError('ERR_LIMIT', `extended header: ${what} is beyond 2^53: ${shorten(text)}`);
  }
  return value;
}

/**
 * A time as "[-]SECONDS[.FRACTION]"; digits past the nanosecond are dropped. One more than 2^53 seconds away is
 * given as 0, as containerd sets times that a file system cannot hold. Throws ERR_TAR_CORRUPT.
 */
export function parseTimestamp(text: ByteString): Timestamp {
  const match = /^([+-]?)([0-9]+)(?:\.([0-9]*))?$/.exec(text);
  if (match === null) {
    throw new FormatError('ERR_TAR_CORRUPT', `extended header: mtime is not a time: ${shorten(text)}`);
  }
  const seconds = Number(match[2]);
  if (!Number.isSafeInteger(seconds)) return { seconds: 0, nanoseconds: 0 };
  const nanoseconds = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'));
  if (match[1] !== '-') return { seconds, nanoseconds };
  if (nanoseconds === 0) return { seconds: seconds === 0 ? 0 : -seconds, nanoseconds };
  return { seconds: -seconds - 1, nanoseconds: 1e9 - nanoseconds };
}

function shorten(text: ByteString): string {
  return toDisplay(text.length > 40 ? `${text.slice(0, 40)}...` : text);
}

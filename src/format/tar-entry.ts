import type { ByteString } from './byte-string.ts';
import { FormatError } from './errors.ts';
import type { TarHeader } from './tar-header.ts';
import { type PaxRecords, parseCount, parseInteger, parseTimestamp, type Timestamp } from './tar-pax.ts';
import { type PaxSparse, paxSparse, type SparseExtents } from './tar-sparse.ts';

export type TarEntryType = 'file' | 'directory' | 'symlink' | 'hardlink' | 'character' | 'block' | 'fifo';

/** One member of a tar archive, with all that its header blocks say together. */
export interface TarEntry {
  /** As in the archive, not normalised; may be empty. */
  readonly path: ByteString;
  readonly type: TarEntryType;
  /** A file's size in bytes, holes included; 0 for all other types. */
  readonly size: number;
  /** The 12 permission bits; of a symlink 0777, which Linux gives them all. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** May be negative. */
  readonly mtimeSeconds: number;
  /** 0 to 999,999,999, counted upwards from the seconds. */
  readonly mtimeNanoseconds: number;
  /** Of a symlink or a hard link (there a path like `path`), else empty. */
  readonly linkTarget: ByteString;
  /** Of a character or block device, else 0. */
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** Full names ("user.comment") and values, but for those that no unpacker sets. */
  readonly xattrs: ReadonlyMap<ByteString, Buffer>;
}

/** What the headers before a member's own said about it. */
export interface Extensions {
  readonly pax: PaxRecords | null;
  /** From GNU's L and K headers. */
  readonly longName: ByteString | null;
  readonly longLink: ByteString | null;
}

/** A member, and how its data lies in the archive. */
export interface TarMember {
  readonly entry: TarEntry;
  /** Bytes in the archive behind the header, without padding. */
  readonly archivedBytes: number;
  /** What to do with these bytes. */
  readonly content:
    | { readonly kind: 'skipped' }
    | { readonly kind: 'plain' }
    | { readonly kind: 'sparse'; readonly extents: SparseExtents }
    /** Sparse, the map stands before the data (pax, format 1.0). */
    | { readonly kind: 'map-then-data' }
    /** Sparse, the map is in the header block and those behind it (GNU type S). */
    | { readonly kind: 'old-gnu-sparse' };
}

const TYPES: Readonly<Record<string, TarEntryType>> = {
  '0': 'file',
  '\0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
  // "Contiguous file": POSIX has it read as a regular one.
  '7': 'file',
  // GNU: a directory with a list of its names as data.
  D: 'directory',
  // GNU: a sparse file.
  S: 'file',
};
const SKIPPED: TarMember['content'] = { kind: 'skipped' };
const PLAIN: TarMember['content'] = { kind: 'plain' };
/** All members without xattrs have this one. */
const NO_XATTRS: ReadonlyMap<ByteString, Buffer> = new Map();
const SYMLINK_MODE = 0o777;
const MAX_ID = 0xffff_ffff;
/** A signed number of 32 bits. */
const MIN_ID = -0x8000_0000;
/** Linux device numbers have 12 bits of major and 20 of minor. */
const MAX_DEVICE_MAJOR = 0xfff;
const MAX_DEVICE_MINOR = 0xf_ffff;

/** Puts a header block and the extended headers before it together. Throws FormatError. */
export function memberOf(header: TarHeader, extensions: Extensions): TarMember {
  const { pax } = extensions;
  const headerType = TYPES[header.typeflag];
  const sparse = headerType === 'file' && header.typeflag !== 'S' && pax !== null ? paxSparse(pax) : null;
  const path = sparse?.name ?? extensions.longName ?? field(pax, 'path') ?? header.path;
  checkName('path', path);
  if (headerType === undefined) {
    throw new FormatError('ERR_UNSUPPORTED', `entry type ${JSON.stringify(header.typeflag)}`);
  }
  // Before POSIX gave directories a type, a slash at the end made one: only of the type of that time, as in Go.
  const type = header.typeflag === '\0' && path.endsWith('/') ? 'directory' : headerType;
  const isFile = type === 'file';
  const isDevice = type === 'character' || type === 'block';
  const mtime = mtimeOf(pax);
  const archivedBytes = countField(pax, 'size') ?? inRange('size', header.sizeBytes, Number.MAX_SAFE_INTEGER);
  const entry: TarEntry = {
    path,
    type,
    size: isFile ? (sparse?.sizeBytes ?? archivedBytes) : 0,
    mode: type === 'symlink' ? SYMLINK_MODE : header.mode,
    uid: idOf('uid', header.uid, pax),
    gid: idOf('gid', header.gid, pax),
    mtimeSeconds: mtime === null ? header.mtimeSeconds : mtime.seconds,
    mtimeNanoseconds: mtime === null ? 0 : mtime.nanoseconds,
    linkTarget: type === 'symlink' || type === 'hardlink' ? linkTargetOf(header, extensions) : '',
    deviceMajor: isDevice ? deviceNumber('major', header.deviceMajor, pax, MAX_DEVICE_MAJOR) : 0,
    deviceMinor: isDevice ? deviceNumber('minor', header.deviceMinor, pax, MAX_DEVICE_MINOR) : 0,
    xattrs: xattrsOf(type, pax),
  };
  if (isFile) return { entry, archivedBytes, content: contentOf(header, sparse) };
  // Other types have no data whatever their size says (as Go and libarchive read them), but for GNU's list.
  return { entry, archivedBytes: header.typeflag === 'D' ? archivedBytes : 0, content: SKIPPED };
}

/** Throws ERR_TAR_CORRUPT for names that no file system takes. */
export function checkName(what: string, name: ByteString): void {
  if (name.includes('\0')) throw new FormatError('ERR_TAR_CORRUPT', `a NUL in its ${what}`);
}

function contentOf(header: TarHeader, sparse: PaxSparse | null): TarMember['content'] {
  if (header.typeflag === 'S') return { kind: 'old-gnu-sparse' };
  if (sparse === null) return PLAIN;
  return sparse.extents === null ? { kind: 'map-then-data' } : { kind: 'sparse', extents: sparse.extents };
}

function linkTargetOf(header: TarHeader, { pax, longLink }: Extensions): ByteString {
  const target = longLink ?? field(pax, 'linkpath') ?? header.linkTarget;
  checkName('link target', target);
  if (target === '') throw new FormatError('ERR_TAR_CORRUPT', 'a link without target');
  return target;
}

function mtimeOf(pax: PaxRecords | null): Timestamp | null {
  const text = field(pax, 'mtime');
  return text === null ? null : parseTimestamp(text);
}

function deviceNumber(
  what: 'major' | 'minor',
  inHeader: number,
  pax: PaxRecords | null,
  max: number,
): number {
  return inRange(`device ${what}`, countField(pax, `SCHILY.dev${what}`) ?? inHeader, max);
}

/**
 * An owner as lchown(2) takes it, by which every unpacker sets it: negative ones are what they are without a sign
 * (-2 is "nobody" on some systems), and -1 leaves the owner, who is root.
 */
function idOf(what: 'uid' | 'gid', inHeader: number, pax: PaxRecords | null): number {
  const text = field(pax, what);
  const value = text === null ? inHeader : parseInteger(text, what);
  if (value < MIN_ID) throw new FormatError('ERR_TAR_CORRUPT', `its ${what} is negative: ${value}`);
  const id = value < 0 ? value >>> 0 : inRange(what, value, MAX_ID);
  return id === MAX_ID ? 0 : id;
}

/**
 * Leaves out what containerd does not set: `trusted.` is for the host's administrator (a `trusted.overlay.` name
 * would direct the overlay that a container is given), and `user.` stands on files and directories only.
 */
function xattrsOf(type: TarEntryType, pax: PaxRecords | null): ReadonlyMap<ByteString, Buffer> {
  if (pax === null || pax.xattrs.size === 0) return NO_XATTRS;
  const takesUser = type === 'file' || type === 'directory' || type === 'hardlink';
  return new Map(
    [...pax.xattrs].filter(
      ([name]) => !name.startsWith('trusted.') && (takesUser || !name.startsWith('user.')),
    ),
  );
}

function field(pax: PaxRecords | null, keyword: string): ByteString | null {
  const value = pax?.fields.get(keyword);
  return value === undefined || value.length === 0 ? null : value.toString('latin1');
}

function countField(pax: PaxRecords | null, keyword: string): number | null {
  const text = field(pax, keyword);
  return text === null ? null : parseCount(text, keyword);
}

function inRange(what: string, value: number, max: number): number {
  if (value < 0) throw new FormatError('ERR_TAR_CORRUPT', `its ${what} is negative: ${value}`);
  if (value > max) throw new FormatError('ERR_LIMIT', `its ${what} is beyond ${max}: ${value}`);
  return value;
}

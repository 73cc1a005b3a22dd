/** The xattr area behind an EROFS inode (Linux, Documentation/filesystems/erofs.rst, "Extended attributes"). */
import { type ByteString, toDisplay } from './byte-string.ts';
import { BLOCK_BYTES, corrupt, INODE_BYTES } from './erofs-layout.ts';
import { FormatError } from './errors.ts';

type Xattrs = ReadonlyMap<ByteString, Buffer>;

const HEADER_BYTES = 12;
const ENTRY_BYTES = 4;
/** The unit count in the inode has 16 bits: one unit for the header, one for each four bytes behind it. */
const MAX_AREA_BYTES = HEADER_BYTES + 4 * (0xffff - 1);
const MAX_VALUE_BYTES = 0xffff;
/** Their count behind the inode has 8 bits. */
const MAX_SHARED = 0xff;
/** XATTR_NAME_MAX of Linux, for the full name. */
const MAX_NAME_BYTES = 255;

/** The names that have a number here are also the only ones that Linux lets any file system hold. */
const PREFIXES: readonly { readonly index: number; readonly prefix: string; readonly whole: boolean }[] = [
  { index: 2, prefix: 'system.posix_acl_access', whole: true },
  { index: 3, prefix: 'system.posix_acl_default', whole: true },
  { index: 1, prefix: 'user.', whole: false },
  { index: 4, prefix: 'trusted.', whole: false },
  { index: 6, prefix: 'security.', whole: false },
];

interface PackedXattr {
  readonly index: number;
  readonly suffix: ByteString;
  readonly value: Buffer;
}

/**
 * Bytes of the area that holds `xattrs`; 0 if there are none. Names that no file system on Linux can hold
 * (`com.apple.provenance`, `system.nfs4_acl`) do not count: unpackers pass over them as well.
 */
export function xattrAreaBytes(xattrs: Xattrs): number {
  if (xattrs.size === 0) return 0;
  let bytes = 0;
  for (const { suffix, value } of packable(xattrs)) bytes += entryBytes(suffix.length, value.length);
  if (bytes === 0) return 0;
  if (HEADER_BYTES + bytes > MAX_AREA_BYTES) {
    throw new FormatError(
      'ERR_LIMIT',
      `xattrs of one inode need ${bytes} bytes, ${MAX_AREA_BYTES} can be held`,
    );
  }
  return HEADER_BYTES + bytes;
}

/** Writes the area of {@link xattrAreaBytes} length at the start of `target`, whose bytes there are zero. */
export function encodeXattrs(xattrs: Xattrs, target: Buffer): void {
  encodeEntries(xattrs, target.subarray(HEADER_BYTES));
}

/** Xattrs that stand apart from their inode, in the file system's shared area. */
export interface SharedXattrs {
  /** What stands behind the inode: where each entry is. */
  readonly area: Buffer;
  /** What stands in the shared area, from its start on. */
  readonly entries: Buffer;
}

/** For an inode that has no room for its xattrs. Throws ERR_LIMIT for more than an inode can point at. */
export function shareXattrs(xattrs: Xattrs): SharedXattrs {
  const units: number[] = [];
  let bytes = 0;
  for (const { suffix, value } of packable(xattrs)) {
    units.push(bytes / 4);
    bytes += entryBytes(suffix.length, value.length);
  }
  if (units.length > MAX_SHARED) {
    throw new FormatError(
      'ERR_LIMIT',
      `an inode with little room for xattrs (the root) has ${units.length}, ${MAX_SHARED} can be held`,
    );
  }
  const area = Buffer.alloc(HEADER_BYTES + 4 * units.length);
  area[4] = units.length;
  for (const [index, unit] of units.entries()) area.writeUInt32LE(unit, HEADER_BYTES + 4 * index);
  const entries = Buffer.alloc(bytes);
  encodeEntries(xattrs, entries);
  return { area, entries };
}

function encodeEntries(xattrs: Xattrs, target: Buffer): void {
  let at = 0;
  for (const { index, suffix, value } of packable(xattrs)) {
    target[at] = suffix.length;
    target[at + 1] = index;
    target.writeUInt16LE(value.length, at + 2);
    target.write(suffix, at + ENTRY_BYTES, 'latin1');
    value.copy(target, at + ENTRY_BYTES + suffix.length);
    at += entryBytes(suffix.length, value.length);
  }
}

/** In order of name, so that the same set always makes the same bytes. */
function packable(xattrs: Xattrs): PackedXattr[] {
  const packed: PackedXattr[] = [];
  for (const name of [...xattrs.keys()].sort()) {
    const known = PREFIXES.find(({ prefix, whole }) =>
      whole ? name === prefix : name.startsWith(prefix) && name.length > prefix.length,
    );
    const value = xattrs.get(name);
    if (known === undefined || value === undefined) continue;
    if (name.length > MAX_NAME_BYTES || value.length > MAX_VALUE_BYTES) {
      throw new FormatError(
        'ERR_LIMIT',
        `xattr ${toDisplay(name.slice(0, MAX_NAME_BYTES))}: name of ${name.length} and value of ${value.length} bytes`,
      );
    }
    packed.push({ index: known.index, suffix: name.slice(known.prefix.length), value });
  }
  return packed;
}

function entryBytes(nameBytes: number, valueBytes: number): number {
  return Math.ceil((ENTRY_BYTES + nameBytes + valueBytes) / 4) * 4;
}

/** Where an inode's xattr area stops describing itself and points into the shared area. */
export interface DecodedXattrs {
  readonly own: Map<ByteString, Buffer>;
  /** In four-byte units from the shared area's start. */
  readonly shared: readonly number[];
}

/** Reads an inode's area. Throws ERR_EROFS_CORRUPT. */
export function decodeXattrs(area: Buffer): DecodedXattrs {
  const own = new Map<ByteString, Buffer>();
  const shared: number[] = [];
  if (area.length === 0) return { own, shared };
  if (area.length < HEADER_BYTES) throw corrupt('an xattr area has no header');
  let at = HEADER_BYTES;
  for (let left = area[4] ?? 0; left > 0; left--, at += 4) {
    if (at + 4 > area.length) throw corrupt('shared xattrs pass the end of their area');
    shared.push(area.readUInt32LE(at));
  }
  while (at < area.length) {
    const { name, value, bytes } = decodeXattr(area.subarray(at));
    own.set(name, value);
    at += bytes;
  }
  return { own, shared };
}

/** Longest possible entry. */
export const MAX_ENTRY_BYTES = entryBytes(0xff, MAX_VALUE_BYTES);

/** Reads the one entry at the start of `bytes`. Throws ERR_EROFS_CORRUPT. */
export function decodeXattr(bytes: Buffer): { name: ByteString; value: Buffer; bytes: number } {
  if (bytes.length < ENTRY_BYTES) throw corrupt('an xattr passes the end of its area');
  const nameEnd = ENTRY_BYTES + (bytes[0] ?? 0);
  const valueEnd = nameEnd + bytes.readUInt16LE(2);
  if (valueEnd > bytes.length) throw corrupt('an xattr passes the end of its area');
  const known = PREFIXES.find(({ index }) => index === bytes[1]);
  if (known === undefined) throw corrupt(`an xattr has the unknown prefix ${bytes[1]}`);
  return {
    name: known.prefix + bytes.toString('latin1', ENTRY_BYTES, nameEnd),
    value: Buffer.from(bytes.subarray(nameEnd, valueEnd)),
    bytes: entryBytes(nameEnd - ENTRY_BYTES, valueEnd - nameEnd),
  };
}

/**
 * Longer tails stand in data blocks of their own, padded with zeros: so inodes lie close together, and whoever lists
 * directories fetches no content of files. The zeros cost next to nothing once compressed (bench/lazy.ts).
 */
const MAX_INLINE_TAIL_BYTES = 128;

/**
 * How many bytes at the end of a file of `size` bytes stand behind its inode instead of in a data block: its
 * partial block, if that is short and fits into one block with the inode and the xattrs; else 0.
 */
export function inlineTailLength(size: number, xattrs: Xattrs): number {
  const tail = size % BLOCK_BYTES;
  if (tail > MAX_INLINE_TAIL_BYTES) return 0;
  return INODE_BYTES + xattrAreaBytes(xattrs) + tail <= BLOCK_BYTES ? tail : 0;
}

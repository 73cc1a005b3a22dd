/**
 * EROFS on disk (Linux, Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h): the superblock and inodes.
 * Only what an uncompressed file system on one device needs.
 */
import { crc32c } from './crc32c.ts';
import { FormatError } from './errors.ts';

export const BLOCK_BYTES = 4096;
const BLOCK_BITS = 12;
/** Inodes start at multiples of this; a nid counts them. */
export const SLOT_BYTES = 32;
export const INODE_BYTES = 64;
const COMPACT_INODE_BYTES = 32;
const SUPERBLOCK_OFFSET = 1024;
const SUPERBLOCK_BYTES = 128;
export const SUPERBLOCK_END = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES;
/** The root inode directly behind the superblock: its number has only 16 bits there. */
export const ROOT_NID = SUPERBLOCK_END / SLOT_BYTES;
/** Block numbers have 32 bits, and all ones means "none". */
export const MAX_BLOCKS = 0xffff_ffff;
export const MAX_NAME_BYTES = 255;
/** PATH_MAX without its NUL: no symbolic link of Linux is longer. */
export const MAX_LINK_BYTES = 4095;

const MAGIC = 0xe0f5e1e2;
const COMPAT_CHECKSUM = 1;
const COMPAT_MTIME = 2;
/** Says only how compressed blocks are padded: without meaning where no inode is compressed. */
const INCOMPAT_LZ4_PADDING = 1;

export interface Superblock {
  readonly rootNid: number;
  readonly inodes: number;
  /** mtime of compact inodes. */
  readonly buildSeconds: number;
  readonly buildNanoseconds: number;
  readonly blocks: number;
  readonly metaBlock: number;
  readonly xattrBlock: number;
  readonly uuid: Buffer;
}

export type InodeType = 'file' | 'directory' | 'symlink' | 'character' | 'block' | 'fifo' | 'socket';
export type DataLayout = 'plain' | 'inline';

export interface ErofsInode {
  /** Byte offset of the inode from the metadata area / 32. */
  readonly nid: number;
  readonly type: InodeType;
  /** The 12 permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  readonly nlink: number;
  readonly size: number;
  /** `inline`: the last, partial block stands behind inode and xattrs. */
  readonly layout: DataLayout;
  /** Of the whole blocks; without meaning if there are none. */
  readonly startBlock: number;
  /** Major and minor of a device node. */
  readonly major: number;
  readonly minor: number;
  /** 32 (compact) or 64. */
  readonly inodeBytes: number;
  /** Of the xattr area behind the inode. */
  readonly xattrBytes: number;
}

const FORMAT_OF_TYPE: Readonly<Record<InodeType, number>> = {
  fifo: 0o010000,
  character: 0o020000,
  directory: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
};
const TYPE_OF_FORMAT: ReadonlyMap<number, InodeType> = new Map(
  (Object.keys(FORMAT_OF_TYPE) as InodeType[]).map((type) => [FORMAT_OF_TYPE[type], type]),
);
const LAYOUT_BITS: Readonly<Record<DataLayout, number>> = { plain: 0, inline: 2 };

/** Bytes of a header that counts the 12 bytes before the first xattr as one unit, each four behind as one. */
const XATTR_HEADER_BYTES = 12;

export function corrupt(message: string): FormatError {
  return new FormatError('ERR_EROFS_CORRUPT', `EROFS: ${message}`);
}

function unsupported(message: string): FormatError {
  return new FormatError('ERR_UNSUPPORTED', `EROFS: ${message}`);
}

/** Reads the superblock out of a file system's first block; throws ERR_EROFS_CORRUPT or ERR_UNSUPPORTED. */
export function decodeSuperblock(firstBlock: Buffer): Superblock {
  const bytes = firstBlock.subarray(SUPERBLOCK_OFFSET);
  if (bytes.readUInt32LE(0) !== MAGIC) throw corrupt('no superblock');
  if (bytes[12] !== BLOCK_BITS) throw unsupported(`blocks of 2^${bytes[12]} bytes`);
  const compat = bytes.readUInt32LE(8);
  if ((compat & COMPAT_CHECKSUM) !== 0 && bytes.readUInt32LE(4) !== superblockChecksum(firstBlock)) {
    throw corrupt('the checksum of the superblock is wrong');
  }
  const incompat = bytes.readUInt32LE(80);
  if ((incompat & ~INCOMPAT_LZ4_PADDING) !== 0) throw unsupported(`features 0x${incompat.toString(16)}`);
  return {
    rootNid: bytes.readUInt16LE(14),
    inodes: safeInteger(bytes.readBigUInt64LE(16), 'inode count'),
    buildSeconds: safeInteger(bytes.readBigUInt64LE(24), 'build time'),
    buildNanoseconds: bytes.readUInt32LE(32),
    blocks: bytes.readUInt32LE(36),
    metaBlock: bytes.readUInt32LE(40),
    xattrBlock: bytes.readUInt32LE(44),
    uuid: Buffer.from(bytes.subarray(48, 64)),
  };
}

/** Puts a superblock of ours into `firstBlock`. The checksum covers the rest of that block: write it last. */
export function writeSuperblock(
  firstBlock: Buffer,
  fields: Pick<Superblock, 'inodes' | 'blocks' | 'xattrBlock' | 'uuid'>,
): void {
  const bytes = firstBlock.subarray(SUPERBLOCK_OFFSET);
  bytes.fill(0, 0, SUPERBLOCK_BYTES);
  bytes.writeUInt32LE(MAGIC, 0);
  bytes.writeUInt32LE(COMPAT_CHECKSUM | COMPAT_MTIME, 8);
  bytes[12] = BLOCK_BITS;
  bytes.writeUInt16LE(ROOT_NID, 14);
  bytes.writeBigUInt64LE(BigInt(fields.inodes), 16);
  bytes.writeUInt32LE(fields.blocks, 36);
  bytes.writeUInt32LE(fields.xattrBlock, 44);
  fields.uuid.copy(bytes, 48, 0, 16);
  bytes.writeUInt32LE(superblockChecksum(firstBlock), 4);
}

/** CRC-32C of the first block from the superblock on, the checksum field itself as zero. */
function superblockChecksum(firstBlock: Buffer): number {
  const covered = Buffer.from(firstBlock.subarray(SUPERBLOCK_OFFSET));
  covered.writeUInt32LE(0, 4);
  return crc32c(covered, 0xffff_ffff);
}

/**
 * Reads one inode.
 *
 * @param bytes At least 32 bytes, and 64 where there are as many.
 */
export function decodeInode(
  bytes: Buffer,
  nid: number,
  build: Pick<Superblock, 'buildSeconds' | 'buildNanoseconds'>,
): ErofsInode {
  const format = bytes.readUInt16LE(0);
  const extended = (format & 1) === 1;
  const layoutBits = format >> 1;
  if (layoutBits !== LAYOUT_BITS.plain && layoutBits !== LAYOUT_BITS.inline) {
    throw unsupported(`inode ${nid} has format 0x${format.toString(16)}`);
  }
  if (extended && bytes.length < INODE_BYTES) throw corrupt(`inode ${nid} passes the end`);
  const mode = bytes.readUInt16LE(4);
  const type = TYPE_OF_FORMAT.get(mode & 0o170000);
  if (type === undefined) throw corrupt(`inode ${nid} has mode 0${mode.toString(8)}`);
  const xattrUnits = bytes.readUInt16LE(2);
  const isDevice = type === 'character' || type === 'block';
  const address = bytes.readUInt32LE(16);
  return {
    nid,
    type,
    mode: mode & 0o7777,
    uid: extended ? bytes.readUInt32LE(24) : bytes.readUInt16LE(24),
    gid: extended ? bytes.readUInt32LE(28) : bytes.readUInt16LE(26),
    mtimeSeconds: extended
      ? safeInteger(bytes.readBigInt64LE(32), `mtime of inode ${nid}`)
      : build.buildSeconds,
    mtimeNanoseconds: extended ? bytes.readUInt32LE(40) : build.buildNanoseconds,
    nlink: extended ? bytes.readUInt32LE(44) : bytes.readUInt16LE(6),
    size: extended ? safeInteger(bytes.readBigUInt64LE(8), `size of inode ${nid}`) : bytes.readUInt32LE(8),
    layout: layoutBits === LAYOUT_BITS.inline ? 'inline' : 'plain',
    startBlock: isDevice ? 0 : address,
    major: isDevice ? (address >>> 8) & 0xfff : 0,
    minor: isDevice ? (address & 0xff) | ((address >>> 12) & 0xfff00) : 0,
    inodeBytes: extended ? INODE_BYTES : COMPACT_INODE_BYTES,
    xattrBytes: xattrUnits === 0 ? 0 : XATTR_HEADER_BYTES + 4 * (xattrUnits - 1),
  };
}

/** Writes an extended inode into the first 64 bytes of `target`. */
export function encodeInode(inode: Omit<ErofsInode, 'inodeBytes'>, target: Buffer): void {
  target.fill(0, 0, INODE_BYTES);
  target.writeUInt16LE(1 | (LAYOUT_BITS[inode.layout] << 1), 0);
  target.writeUInt16LE(inode.xattrBytes === 0 ? 0 : 1 + (inode.xattrBytes - XATTR_HEADER_BYTES) / 4, 2);
  target.writeUInt16LE(FORMAT_OF_TYPE[inode.type] | inode.mode, 4);
  writeUInt64(target, inode.size, 8);
  target.writeUInt32LE(
    inode.type === 'character' || inode.type === 'block' ? deviceNumber(inode) : inode.startBlock,
    16,
  );
  target.writeUInt32LE(inode.nid % 2 ** 32, 20);
  target.writeUInt32LE(inode.uid, 24);
  target.writeUInt32LE(inode.gid, 28);
  writeInt64(target, inode.mtimeSeconds, 32);
  target.writeUInt32LE(inode.mtimeNanoseconds, 40);
  target.writeUInt32LE(inode.nlink, 44);
}

/** Linux's own packing: the low 8 bits of the minor number, then 12 bits of major, then the rest of the minor. */
function deviceNumber({ major, minor }: { major: number; minor: number }): number {
  return ((minor & 0xff) | (major << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}

export function blocksOf(bytes: number): number {
  return Math.ceil(bytes / BLOCK_BYTES);
}

export function roundUpToSlot(bytes: number): number {
  return Math.ceil(bytes / SLOT_BYTES) * SLOT_BYTES;
}

export function writeUInt64(target: Buffer, value: number, offset: number): void {
  target.writeUInt32LE(value % 2 ** 32, offset);
  target.writeUInt32LE(Math.floor(value / 2 ** 32), offset + 4);
}

function writeInt64(target: Buffer, value: number, offset: number): void {
  const high = Math.floor(value / 2 ** 32);
  target.writeUInt32LE(value - high * 2 ** 32, offset);
  target.writeInt32LE(high, offset + 4);
}

function safeInteger(value: bigint, what: string): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw corrupt(`${what} is ${value}`);
  return number;
}

import { BlockCache } from './block-cache.ts';
import { type ByteSource, checkRange } from './byte-source.ts';
import type { ByteString } from './byte-string.ts';
import { type DirectoryEntry, decodeDirectoryBlock } from './erofs-directory.ts';
import {
  BLOCK_BYTES,
  blocksOf,
  corrupt,
  decodeInode,
  decodeSuperblock,
  type ErofsInode,
  INODE_BYTES,
  MAX_LINK_BYTES,
  SLOT_BYTES,
  type Superblock,
} from './erofs-layout.ts';
import { decodeXattr, decodeXattrs, MAX_ENTRY_BYTES } from './erofs-xattrs.ts';
import { FormatError } from './errors.ts';

const CACHED_BLOCKS = 1024;
/** Directories are read in pieces of this size, and no larger than the limit. */
const DIRECTORY_PIECE_BYTES = 64 * BLOCK_BYTES;
const MAX_DIRECTORY_BYTES = 2 ** 28;
const MAX_READ_ALL_BYTES = 2 ** 30;
/** Far longer than any path that the kernel takes: only a crafted file system has one. */
const MAX_WALK_PATH_BYTES = 2 ** 16;

export interface WalkedInode {
  /** Without leading slash; the root is empty. */
  readonly path: ByteString;
  readonly inode: ErofsInode;
}

/**
 * Reads an uncompressed EROFS file system. The bytes may be anything: every address is checked, and what does
 * not make sense is a {@link FormatError} (ERR_EROFS_CORRUPT, ERR_UNSUPPORTED, ERR_LIMIT).
 */
export class ErofsReader {
  readonly superblock: Superblock;
  readonly #device: ByteSource;
  readonly #cache: BlockCache;
  readonly #metaOffset: number;
  readonly #sizeBytes: number;

  private constructor(device: ByteSource, superblock: Superblock) {
    this.superblock = superblock;
    this.#device = device;
    this.#cache = new BlockCache(device, { blockBytes: BLOCK_BYTES, capacityBlocks: CACHED_BLOCKS });
    this.#metaOffset = superblock.metaBlock * BLOCK_BYTES;
    this.#sizeBytes = superblock.blocks * BLOCK_BYTES;
  }

  static async open(device: ByteSource, signal?: AbortSignal): Promise<ErofsReader> {
    if (device.size < BLOCK_BYTES) throw corrupt('smaller than one block');
    const first = Buffer.alloc(BLOCK_BYTES);
    await device.read(0, first, signal);
    const superblock = decodeSuperblock(first);
    if (superblock.blocks * BLOCK_BYTES > device.size) {
      throw corrupt(`${superblock.blocks} blocks in a device of ${device.size} bytes`);
    }
    return new ErofsReader(device, superblock);
  }

  root(signal?: AbortSignal): Promise<ErofsInode> {
    return this.inode(this.superblock.rootNid, signal);
  }

  /** The inode with this number, its addresses checked. */
  async inode(nid: number, signal?: AbortSignal): Promise<ErofsInode> {
    const offset = this.inodeOffset(nid);
    if (offset + SLOT_BYTES > this.#sizeBytes) throw corrupt(`inode ${nid} is outside the file system`);
    const length = Math.min(INODE_BYTES, this.#sizeBytes - offset);
    const inode = decodeInode(await this.#cache.bytes(offset, length, signal), nid, this.superblock);
    this.#checkAddresses(inode);
    return inode;
  }

  /** Byte offset of an inode in the device. */
  inodeOffset(nid: number): number {
    return this.#metaOffset + nid * SLOT_BYTES;
  }

  /** Bytes of the metadata through a bounded cache. They must not be changed. */
  metadata(offset: number, length: number, signal?: AbortSignal): Promise<Buffer> {
    if (offset + length > this.#sizeBytes) throw corrupt('metadata passes the end of the file system');
    return this.#cache.bytes(offset, length, signal);
  }

  /**
   * What a directory holds, in its order, without "." and "..".
   *
   * @param firstNames Gets the first name of each block.
   */
  async readDirectory(
    directory: ErofsInode,
    signal?: AbortSignal,
    firstNames: ByteString[] = [],
  ): Promise<DirectoryEntry[]> {
    if (directory.type !== 'directory') throw corrupt(`inode ${directory.nid} is not a directory`);
    if (directory.size > MAX_DIRECTORY_BYTES) throw tooLarge('directory', directory);
    const entries: DirectoryEntry[] = [];
    for (let offset = 0; offset < directory.size; offset += DIRECTORY_PIECE_BYTES) {
      const piece = Buffer.allocUnsafe(Math.min(DIRECTORY_PIECE_BYTES, directory.size - offset));
      await this.readFile(directory, offset, piece, signal);
      for (let at = 0; at < piece.length; at += BLOCK_BYTES) {
        firstNames.push(decodeDirectoryBlock(piece.subarray(at, at + BLOCK_BYTES), entries));
      }
    }
    return entries;
  }

  /** The target of a symbolic link. */
  async readLink(link: ErofsInode, signal?: AbortSignal): Promise<ByteString> {
    if (link.type !== 'symlink' || link.size > MAX_LINK_BYTES)
      throw corrupt(`inode ${link.nid} is not a link`);
    return (await this.readAll(link, signal)).toString('latin1');
  }

  /** All extended attributes by full name. */
  async xattrs(inode: ErofsInode, signal?: AbortSignal): Promise<Map<ByteString, Buffer>> {
    if (inode.xattrBytes === 0) return new Map();
    const areaOffset = this.inodeOffset(inode.nid) + inode.inodeBytes;
    const { own, shared } = decodeXattrs(await this.metadata(areaOffset, inode.xattrBytes, signal));
    for (const unit of shared) {
      const offset = this.superblock.xattrBlock * BLOCK_BYTES + unit * 4;
      const length = Math.min(MAX_ENTRY_BYTES, this.#sizeBytes - offset);
      if (length <= 0) throw corrupt(`a shared xattr of inode ${inode.nid} is outside the file system`);
      const { name, value } = decodeXattr(await this.#sharedXattr(offset, length, signal));
      own.set(name, value);
    }
    return own;
  }

  /** Fills `target` from byte `offset` of a file's, directory's or link's data. */
  async readFile(inode: ErofsInode, offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    checkRange(`EROFS inode ${inode.nid}`, inode.size, offset, target.length);
    const wholeBytes = inode.layout === 'inline' ? inode.size - (inode.size % BLOCK_BYTES) : inode.size;
    const fromBlocks = Math.max(0, Math.min(target.length, wholeBytes - offset));
    if (fromBlocks > 0) {
      const blocks = target.subarray(0, fromBlocks);
      await this.#device.read(inode.startBlock * BLOCK_BYTES + offset, blocks, signal);
    }
    if (fromBlocks < target.length) {
      const tailOffset = this.inodeOffset(inode.nid) + inode.inodeBytes + inode.xattrBytes;
      const inTail = offset + fromBlocks - wholeBytes;
      const tail = await this.metadata(tailOffset + inTail, target.length - fromBlocks, signal);
      tail.copy(target, fromBlocks);
    }
  }

  /** All data of a file or link; ERR_LIMIT over 1 GiB. */
  async readAll(inode: ErofsInode, signal?: AbortSignal): Promise<Buffer> {
    if (inode.size > MAX_READ_ALL_BYTES) throw tooLarge('file', inode);
    const bytes = Buffer.allocUnsafe(inode.size);
    await this.readFile(inode, 0, bytes, signal);
    return bytes;
  }

  /** The inode of a path, or null. Symbolic links are not followed. */
  async lookup(path: ByteString, signal?: AbortSignal): Promise<ErofsInode | null> {
    let inode = await this.root(signal);
    for (const name of path.split('/')) {
      if (name === '') continue;
      if (inode.type !== 'directory') return null;
      const entry = (await this.readDirectory(inode, signal)).find((candidate) => candidate.name === name);
      if (entry === undefined) return null;
      inode = await this.inode(entry.nid, signal);
    }
    return inode;
  }

  /** Every name in the file system, directories before what they hold. */
  async *walk(signal?: AbortSignal): AsyncGenerator<WalkedInode> {
    const root = await this.root(signal);
    const pending: WalkedInode[] = [{ path: '', inode: root }];
    const seen = new Set([root.nid]);
    for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
      yield directory;
      const prefix = directory.path === '' ? '' : `${directory.path}/`;
      const below: WalkedInode[] = [];
      for (const { name, nid, type } of await this.readDirectory(directory.inode, signal)) {
        const walked = { path: prefix + name, inode: await this.inode(nid, signal) };
        if (walked.inode.type !== type) throw corrupt(`inode ${nid} is not the ${type} that its entry says`);
        if (walked.path.length > MAX_WALK_PATH_BYTES) throw tooLarge('path of', walked.inode);
        if (type !== 'directory') {
          yield walked;
          continue;
        }
        if (seen.has(nid)) throw corrupt(`directory ${nid} has two names`);
        seen.add(nid);
        below.push(walked);
      }
      for (let index = below.length - 1; index >= 0; index--) pending.push(below[index] as WalkedInode);
    }
  }

  /** A shared entry is up to 64 KiB long, but mostly short: its header says how much to read. */
  async #sharedXattr(offset: number, limit: number, signal?: AbortSignal): Promise<Buffer> {
    const header = await this.metadata(offset, Math.min(4, limit), signal);
    if (header.length < 4) throw corrupt('a shared xattr passes the end of the file system');
    const length = 4 + (header[0] ?? 0) + header.readUInt16LE(2);
    return this.metadata(offset, Math.min(length, limit), signal);
  }

  #checkAddresses(inode: ErofsInode): void {
    const behind = this.inodeOffset(inode.nid) + inode.inodeBytes + inode.xattrBytes;
    if (behind > this.#sizeBytes) throw corrupt(`inode ${inode.nid} passes the end of the file system`);
    if (inode.type !== 'file' && inode.type !== 'directory' && inode.type !== 'symlink') return;
    const tail = inode.layout === 'inline' ? inode.size % BLOCK_BYTES : 0;
    if (tail > 0 && (behind % BLOCK_BYTES) + tail > BLOCK_BYTES) {
      throw corrupt(`the tail of inode ${inode.nid} crosses a block boundary`);
    }
    const blocks = blocksOf(inode.size - tail);
    if (blocks > 0 && inode.startBlock + blocks > this.superblock.blocks) {
      throw corrupt(`the data of inode ${inode.nid} are outside the file system`);
    }
  }
}

function tooLarge(what: string, inode: ErofsInode): FormatError {
  return new FormatError('ERR_LIMIT', `EROFS: ${what} inode ${inode.nid} is too large (${inode.size} bytes)`);
}

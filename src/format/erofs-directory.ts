/**
 * EROFS directory data: blocks that each hold the entries and, behind them, the names of a stretch of the
 * sorted directory (Linux, Documentation/filesystems/erofs.rst, "Directories").
 */
import type { ByteString } from './byte-string.ts';
import { BLOCK_BYTES, corrupt, type InodeType, MAX_NAME_BYTES, writeUInt64 } from './erofs-layout.ts';

const DIRENT_BYTES = 12;

/**
 * A directory longer than this keeps some room in each block, for names that later layers add: so they write some
 * blocks again, not all. Compressed, the room costs next to nothing.
 */
const ROOMY_FROM_BYTES = 8 * BLOCK_BYTES;
const ROOM_BYTES = 512;

const CODES: Readonly<Record<InodeType, number>> = {
  file: 1,
  directory: 2,
  character: 3,
  block: 4,
  fifo: 5,
  socket: 6,
  symlink: 7,
};
const TYPES: readonly (InodeType | undefined)[] = [
  undefined,
  'file',
  'directory',
  'character',
  'block',
  'fifo',
  'socket',
  'symlink',
];

export interface DirectoryEntry {
  readonly name: ByteString;
  readonly nid: number;
  readonly type: InodeType;
}

/** All names of a directory, cut into blocks. */
export interface DirectoryListing {
  /** Sorted, with "." and "..". */
  readonly names: readonly ByteString[];
  readonly size: number;
  /** Index of the first name of each block. */
  readonly blockStarts: readonly number[];
}

/** The names of a directory in the order of its blocks, with "." and "..". */
export function sortedNames(children: Iterable<ByteString>): ByteString[] {
  return [...children, '.', '..'].sort();
}

/** Cuts sorted names into blocks. */
export function listDirectory(names: readonly ByteString[]): DirectoryListing {
  const total = names.reduce((sum, name) => sum + entryBytes(name), 0);
  const limit = total > ROOMY_FROM_BYTES ? BLOCK_BYTES - ROOM_BYTES : BLOCK_BYTES;
  const blockStarts = [0];
  let used = 0;
  for (let index = 0; index < names.length; index++) {
    const bytes = entryBytes(names[index] as ByteString);
    if (used + bytes > limit) {
      blockStarts.push(index);
      used = 0;
    }
    used += bytes;
  }
  return { names, size: (blockStarts.length - 1) * BLOCK_BYTES + used, blockStarts };
}

/**
 * Cuts sorted names where a former listing was cut, so that blocks with the same names stay the same; null where that is
 * not possible.
 *
 * @param firstNames The first name of each block.
 */
export function listDirectoryAlike(
  names: readonly ByteString[],
  firstNames: readonly ByteString[],
): DirectoryListing | null {
  const blockStarts = [0];
  let used = 0;
  for (let index = 0; index < names.length; index++) {
    const name = names[index] as ByteString;
    const next = firstNames[blockStarts.length];
    // A block must not be empty: where all its names are gone, it gets the next.
    if (next !== undefined && name >= next && used > 0) {
      blockStarts.push(index);
      used = 0;
    }
    used += entryBytes(name);
    if (used > BLOCK_BYTES) return null;
  }
  if (blockStarts.length !== firstNames.length) return null;
  return { names, size: (blockStarts.length - 1) * BLOCK_BYTES + used, blockStarts };
}

function entryBytes(name: ByteString): number {
  return DIRENT_BYTES + name.length;
}

/** Writes block `block` of a listing at the start of `target`, whose bytes there are zero. */
export function encodeDirectoryBlock(
  listing: DirectoryListing,
  block: number,
  childOf: (name: ByteString) => { readonly nid: number; readonly type: InodeType },
  target: Buffer,
): void {
  const first = listing.blockStarts[block] as number;
  const end = listing.blockStarts[block + 1] ?? listing.names.length;
  let nameAt = (end - first) * DIRENT_BYTES;
  for (let index = first, at = 0; index < end; index++, at += DIRENT_BYTES) {
    const name = listing.names[index] as ByteString;
    const child = childOf(name);
    writeUInt64(target, child.nid, at);
    target.writeUInt16LE(nameAt, at + 8);
    target[at + 10] = CODES[child.type];
    target.write(name, nameAt, 'latin1');
    nameAt += name.length;
  }
}

/**
 * Appends the entries of one block (its last one may be short) to `entries`, which those of the blocks before are
 * in, without "." and "..".
 *
 * @returns The block's first name, whatever it is.
 */
export function decodeDirectoryBlock(block: Buffer, entries: DirectoryEntry[]): ByteString {
  const namesAt = block.length < DIRENT_BYTES ? 0 : block.readUInt16LE(8);
  if (namesAt === 0 || namesAt % DIRENT_BYTES !== 0 || namesAt >= block.length) {
    throw corrupt(`a directory block has its names at ${namesAt}`);
  }
  let nameAt = namesAt;
  let firstName = '';
  for (let at = 0; at < namesAt; at += DIRENT_BYTES) {
    const isLast = at + DIRENT_BYTES === namesAt;
    const nameEnd = isLast ? endOfLastName(block, nameAt) : block.readUInt16LE(at + DIRENT_BYTES + 8);
    if (nameEnd <= nameAt || nameEnd > block.length || nameEnd - nameAt > MAX_NAME_BYTES) {
      throw corrupt(`a directory entry has its name from ${nameAt} to ${nameEnd}`);
    }
    const name = block.toString('latin1', nameAt, nameEnd);
    nameAt = nameEnd;
    if (at === 0) firstName = name;
    if (name === '.' || name === '..') continue;
    if (name.includes('/') || name.includes('\0'))
      throw corrupt('a directory entry has "/" or NUL in its name');
    // The kernel searches by halving. Also, no block counts twice: a directory holds no more than its bytes do.
    const last = entries.at(-1);
    if (last !== undefined && last.name >= name) throw corrupt('the names of a directory are not in order');
    const type = TYPES[block[at + 10] ?? 0];
    const nid = block.readUInt32LE(at) + block.readUInt32LE(at + 4) * 2 ** 32;
    if (type === undefined || !Number.isSafeInteger(nid))
      throw corrupt(`a directory entry has nid ${nid}, type ${type}`);
    entries.push({ name, nid, type });
  }
  return firstName;
}

/** The last name of a block ends with the block or at the first NUL. */
function endOfLastName(block: Buffer, nameAt: number): number {
  const nul = block.indexOf(0, nameAt);
  return nul < 0 ? block.length : nul;
}

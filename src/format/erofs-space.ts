import { BLOCK_BYTES, blocksOf, type ErofsInode, SUPERBLOCK_END } from './erofs-layout.ts';
import type { ErofsReader } from './erofs-reader.ts';

/** What a file system's content takes on its device, before compression. All in bytes but the counts. */
export interface SpaceUse {
  readonly inodes: number;
  /** What files hold. */
  readonly fileBytes: number;
  /** Zeros behind files that do not end with their last block. */
  readonly filePaddingBytes: number;
  /** Blocks that hold the names of directories and long links. */
  readonly nameBytes: number;
  /** Blocks that hold inodes, with short names, links and tails of files. */
  readonly inodeBytes: number;
  /** What nothing uses in those. */
  readonly inodeSlackBytes: number;
}

/** Looks at every inode of a file system. Throws FormatError, SourceError. */
export async function measureSpace(reader: ErofsReader, signal?: AbortSignal): Promise<SpaceUse> {
  const seen = new Set<number>();
  /** Blocks with inodes in them. */
  const blocks = new Set([0]);
  let usedBytes = SUPERBLOCK_END;
  const sum = { fileBytes: 0, filePaddingBytes: 0, nameBytes: 0 };
  for await (const { inode } of reader.walk(signal)) {
    if (seen.has(inode.nid)) continue;
    seen.add(inode.nid);
    const tail = tailBytes(inode);
    const slotBytes = inode.inodeBytes + inode.xattrBytes + tail;
    const start = reader.inodeOffset(inode.nid);
    usedBytes += slotBytes;
    for (let at = start - (start % BLOCK_BYTES); at < start + slotBytes; at += BLOCK_BYTES) {
      blocks.add(at / BLOCK_BYTES);
    }
    const inBlocks = blocksOf(sizeOf(inode) - tail) * BLOCK_BYTES;
    if (inode.type === 'file') {
      sum.fileBytes += inode.size;
      sum.filePaddingBytes += inBlocks - (inode.size - tail);
    } else {
      sum.nameBytes += inBlocks;
    }
  }
  const inodeBytes = blocks.size * BLOCK_BYTES;
  return { inodes: seen.size, ...sum, inodeBytes, inodeSlackBytes: inodeBytes - usedBytes };
}

/** Devices and pipes have no data, whatever their size says. */
function sizeOf({ type, size }: ErofsInode): number {
  return type === 'file' || type === 'directory' || type === 'symlink' ? size : 0;
}

function tailBytes(inode: ErofsInode): number {
  return inode.layout === 'inline' ? sizeOf(inode) % BLOCK_BYTES : 0;
}

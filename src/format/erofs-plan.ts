import { type DirectoryListing, listDirectory, listDirectoryAlike, sortedNames } from './erofs-directory.ts';
import {
  BLOCK_BYTES,
  blocksOf,
  corrupt,
  type DataLayout,
  type ErofsInode,
  INODE_BYTES,
  MAX_BLOCKS,
  ROOT_NID,
  roundUpToSlot,
  SLOT_BYTES,
} from './erofs-layout.ts';
import { SlotPlacer } from './erofs-slots.ts';
import { type LayerTree, TreeNode } from './erofs-tree.ts';
import { inlineTailLength, type SharedXattrs, shareXattrs, xattrAreaBytes } from './erofs-xattrs.ts';
import { FormatError } from './errors.ts';

/** The rest of block 0 behind the superblock belongs to the root. */
const ROOT_SLOT_BYTES = BLOCK_BYTES - ROOT_NID * SLOT_BYTES;
const SLOTS_PER_BLOCK = BLOCK_BYTES / SLOT_BYTES;

/** An inode to be written, at its node's nid. */
export interface PlannedInode {
  readonly node: TreeNode;
  readonly slotBytes: number;
  readonly xattrBytes: number;
  readonly size: number;
  readonly layout: DataLayout;
  readonly startBlock: number;
  /** Of a directory whose data are written anew. */
  readonly listing: DirectoryListing | null;
}

/** What a layer writes and where. */
export interface LayerPlan {
  readonly root: TreeNode;
  /** In slots that exist below, by nid. */
  readonly rewritten: readonly PlannedInode[];
  /** Directories among those whose names are written again where they stand below. */
  readonly relisted: readonly PlannedInode[];
  /** In new blocks, by nid. */
  readonly placed: readonly PlannedInode[];
  /** Directories and symbolic links with new data blocks, by block. */
  readonly withBlocks: readonly PlannedInode[];
  /** New xattrs of the root that its block has no room for, and the first of the blocks that they get. */
  readonly rootXattrs: (SharedXattrs & { readonly startBlock: number }) | null;
  readonly totalBlocks: number;
}

/**
 * Decides where everything that the layer changed goes: data blocks of directories from `firstBlock` of the
 * metadata on, new inodes behind them. Gives every node its nid.
 *
 * @param dataBlock Absolute number of block 0 of the layer's own file data.
 * @param firstBlock First block behind those data.
 */
export async function planLayer(
  tree: LayerTree,
  { dataBlock, firstBlock }: { readonly dataBlock: number; readonly firstBlock: number },
): Promise<LayerPlan> {
  await moveGrown(tree);
  const plan = await new Planner(tree, dataBlock, firstBlock).plan();
  checkApart(plan.rewritten);
  return plan;
}

/** Inodes of a sound file system never overlap; those of a damaged one could not be written back in order. */
function checkApart(rewritten: readonly PlannedInode[]): void {
  for (const [index, { node, slotBytes }] of rewritten.entries()) {
    const next = rewritten[index + 1];
    if (next !== undefined && node.nid * SLOT_BYTES + slotBytes > next.node.nid * SLOT_BYTES) {
      throw corrupt(`inodes ${node.nid} and ${next.node.nid} overlap`);
    }
  }
}

/** Gives up the slots of directories whose xattrs have outgrown them, and marks all that names their nid. */
async function moveGrown(tree: LayerTree): Promise<void> {
  // The list grows while it is walked, by directories that stay where they are.
  for (let index = 0; index < tree.changed.length; index++) {
    const node = tree.changed[index] as TreeNode;
    if (node.type !== 'directory' || node.links === 0 || node.attributes === null || node.lower === null)
      continue;
    // The root never moves: its nid has 16 bits.
    if (node.parent === null || INODE_BYTES + xattrBytesOf(node) <= slotBytesOf(node.lower)) continue;
    node.nid = -1;
    tree.markChildrenChanged(node);
    tree.markChildrenChanged(node.parent);
    for (const [name, child] of await tree.children(node)) {
      if (child.type !== 'directory') continue;
      const below = await tree.child(node, name);
      if (below !== null) tree.markChildrenChanged(below);
    }
  }
}

/** How many bytes from its start an inode of the layers below may use: what its writer gave it. */
function slotBytesOf(inode: ErofsInode): number {
  if (inode.nid === ROOT_NID) return ROOT_SLOT_BYTES;
  const tail = inode.layout === 'inline' ? inode.size % BLOCK_BYTES : 0;
  return roundUpToSlot(INODE_BYTES + inode.xattrBytes + tail);
}

class Planner {
  readonly #tree: LayerTree;
  readonly #dataBlock: number;
  readonly #placer = new SlotPlacer();
  readonly #rewritten: PlannedInode[] = [];
  readonly #relisted: PlannedInode[] = [];
  readonly #placed: PlannedInode[] = [];
  readonly #withBlocks: PlannedInode[] = [];
  #rootXattrs: LayerPlan['rootXattrs'] = null;
  #nextBlock: number;

  constructor(tree: LayerTree, dataBlock: number, firstBlock: number) {
    this.#tree = tree;
    this.#dataBlock = dataBlock;
    this.#nextBlock = firstBlock;
  }

  async plan(): Promise<LayerPlan> {
    for (const node of this.#tree.changed) {
      if (node.type !== 'directory' && node.links > 0)
        this.#rewritten.push(unchangedData(node, lowerOf(node), xattrBytesOf(node)));
    }
    this.#shareRootXattrs();
    await this.#walk();
    const totalBlocks = this.#nextBlock + this.#placer.blocks;
    if (totalBlocks > MAX_BLOCKS) {
      throw new FormatError(
        'ERR_LIMIT',
        `the file system would have ${totalBlocks} blocks of ${BLOCK_BYTES} bytes`,
      );
    }
    for (const { node } of this.#placed) node.nid += this.#nextBlock * SLOTS_PER_BLOCK;
    return {
      root: this.#tree.root,
      rewritten: this.#rewritten.sort(byNid),
      relisted: this.#relisted,
      placed: this.#placed.sort(byNid),
      withBlocks: this.#withBlocks,
      rootXattrs: this.#rootXattrs,
      totalBlocks,
    };
  }

  #shareRootXattrs(): void {
    const { attributes } = this.#tree.root;
    if (attributes === null || INODE_BYTES + xattrAreaBytes(attributes.xattrs) <= ROOT_SLOT_BYTES) return;
    const shared = shareXattrs(attributes.xattrs);
    this.#rootXattrs = { ...shared, startBlock: this.#nextBlock };
    this.#nextBlock += blocksOf(shared.entries.length);
  }

  /** Directories before what is below them; what else a directory holds comes directly behind it. */
  async #walk(): Promise<void> {
    const pending = [this.#tree.root];
    for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
      const planned = await this.#planDirectory(directory);
      const children = directory.children;
      if (children === null) continue;
      const below: TreeNode[] = [];
      for (const name of planned?.listing?.names ?? children.keys()) {
        const child = children.get(name);
        if (!(child instanceof TreeNode)) continue;
        if (child.type === 'directory') below.push(child);
        else if (child.nid < 0) this.#place(this.#planNew(child));
      }
      for (let index = below.length - 1; index >= 0; index--) pending.push(below[index] as TreeNode);
    }
  }

  async #planDirectory(node: TreeNode): Promise<PlannedInode | null> {
    if (node.lower !== null && !node.changed) return null;
    const isPlaced = node.nid < 0;
    const slotLimit = isPlaced
      ? BLOCK_BYTES
      : node.lower === null
        ? ROOT_SLOT_BYTES
        : slotBytesOf(node.lower);
    const xattrBytes = (node.parent === null && this.#rootXattrs?.area.length) || xattrBytesOf(node);
    if (node.lower !== null && !node.childrenChanged) {
      if (node.lower.layout === 'plain' || xattrBytes === node.lower.xattrBytes) {
        const kept = unchangedData(node, node.lower, xattrBytes);
        this.#rewritten.push(kept);
        return kept;
      }
    }
    const names = sortedNames((await this.#tree.children(node)).keys());
    const listing = listDirectory(names);
    const inlineBytes = INODE_BYTES + xattrBytes + listing.size;
    const isInline = inlineBytes <= Math.min(slotLimit, BLOCK_BYTES);
    const alike = isPlaced || isInline ? null : listAsBelow(node, listing);
    if (alike !== null) {
      const { startBlock } = lowerOf(node);
      const { size } = alike;
      const kept = {
        node,
        slotBytes: slotLimit,
        xattrBytes,
        size,
        layout: 'plain',
        startBlock,
        listing: alike,
      } as const;
      this.#rewritten.push(kept);
      this.#relisted.push(kept);
      return kept;
    }
    const planned = this.#withData({
      node,
      slotBytes: isPlaced ? roundUpToSlot(isInline ? inlineBytes : INODE_BYTES + xattrBytes) : slotLimit,
      xattrBytes,
      size: listing.size,
      layout: isInline ? 'inline' : 'plain',
      listing,
    });
    if (isPlaced) this.#place(planned);
    else this.#rewritten.push(planned);
    return planned;
  }

  /** A new inode that is not a directory. */
  #planNew(node: TreeNode): PlannedInode {
    const xattrBytes = xattrBytesOf(node);
    const { content } = node;
    if (content?.kind === 'file') {
      const tail = inlineTailLength(content.size, node.attributes?.xattrs ?? new Map());
      if (tail !== (content.inlineTail?.length ?? 0)) {
        throw new Error(`a file of ${content.size} bytes came with a tail of ${content.inlineTail?.length}`);
      }
      return {
        node,
        slotBytes: roundUpToSlot(INODE_BYTES + xattrBytes + tail),
        xattrBytes,
        size: content.size,
        layout: tail > 0 ? 'inline' : 'plain',
        startBlock: content.size > tail ? this.#dataBlock + content.firstBlock : 0,
        listing: null,
      };
    }
    if (content?.kind === 'symlink') {
      const size = content.target.length;
      const inlineBytes = INODE_BYTES + xattrBytes + size;
      const isInline = inlineBytes <= BLOCK_BYTES;
      return this.#withData({
        node,
        slotBytes: roundUpToSlot(isInline ? inlineBytes : INODE_BYTES + xattrBytes),
        xattrBytes,
        size,
        layout: isInline ? 'inline' : 'plain',
        listing: null,
      });
    }
    return {
      node,
      slotBytes: roundUpToSlot(INODE_BYTES + xattrBytes),
      xattrBytes,
      size: 0,
      layout: 'plain',
      startBlock: 0,
      listing: null,
    };
  }

  /** Gives a directory or symbolic link the data blocks it needs. */
  #withData(inode: Omit<PlannedInode, 'startBlock'>): PlannedInode {
    const blocks = dataBlocksOf(inode);
    if (blocks === 0) return { ...inode, startBlock: 0 };
    const planned = { ...inode, startBlock: this.#nextBlock };
    this.#nextBlock += blocks;
    this.#withBlocks.push(planned);
    return planned;
  }

  /** Gives a new inode its place, for now counted from the first block of new inodes. */
  #place(planned: PlannedInode): void {
    planned.node.nid = this.#placer.place(planned.slotBytes) / SLOT_BYTES;
    this.#placed.push(planned);
  }
}

/** Whole blocks that are not in the slot. */
export function dataBlocksOf({ size, layout }: Pick<PlannedInode, 'size' | 'layout'>): number {
  return layout === 'inline' ? Math.floor(size / BLOCK_BYTES) : blocksOf(size);
}

/**
 * The names of a directory in the blocks that it has in the layers below; null where they do not go into them, or
 * would leave most of them empty.
 */
function listAsBelow({ lower, firstNames }: TreeNode, listing: DirectoryListing): DirectoryListing | null {
  if (lower?.layout !== 'plain' || firstNames.length > 2 * listing.blockStarts.length) return null;
  return listDirectoryAlike(listing.names, firstNames);
}

/** An inode of the layers below whose data stay as they are. */
function unchangedData(node: TreeNode, lower: ErofsInode, xattrBytes: number): PlannedInode {
  return {
    node,
    slotBytes: slotBytesOf(lower),
    xattrBytes,
    size: lower.size,
    layout: lower.layout,
    startBlock: lower.startBlock,
    listing: null,
  };
}

function xattrBytesOf(node: TreeNode): number {
  return node.attributes === null ? lowerOf(node).xattrBytes : xattrAreaBytes(node.attributes.xattrs);
}

function lowerOf(node: TreeNode): ErofsInode {
  if (node.lower === null) throw new Error(`a ${node.type} has neither attributes nor an inode below`);
  return node.lower;
}

function byNid(a: PlannedInode, b: PlannedInode): number {
  return a.node.nid - b.node.nid;
}

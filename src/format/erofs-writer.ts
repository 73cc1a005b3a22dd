import { BlockRun } from './block-run.ts';
import type { ByteSource } from './byte-source.ts';
import { applyEntries } from './erofs-apply.ts';
import { encodeDirectoryBlock } from './erofs-directory.ts';
import {
  BLOCK_BYTES,
  corrupt,
  encodeInode,
  INODE_BYTES,
  SLOT_BYTES,
  writeSuperblock,
} from './erofs-layout.ts';
import { dataBlocksOf, type LayerPlan, type PlannedInode, planLayer } from './erofs-plan.ts';
import { ErofsReader } from './erofs-reader.ts';
import { LayerTree, type TreeNode } from './erofs-tree.ts';
import { encodeXattrs } from './erofs-xattrs.ts';
import type { LayerEntry } from './layer-entry.ts';

export { inlineTailLength } from './erofs-xattrs.ts';

const RUN_BLOCKS = 64;

export interface ErofsLayerInput {
  /** The device that the layers below make up; null under the first layer. */
  readonly parent: ByteSource | null;
  /** In archive order. */
  readonly entries: readonly LayerEntry[];
  /** Blocks of file data that the layer brings along. */
  readonly dataBlocks: number;
  /** Fills `target` with bytes of the tail spool. */
  readTail(offset: number, target: Buffer): void;
  /** 16 bytes. */
  readonly uuid: Buffer;
  readonly signal?: AbortSignal;
}

export interface ErofsLayer {
  /** Where block 0 of the layer's own data stands in the device. */
  readonly firstBlock: number;
  /** Of the device with this layer. */
  readonly totalBlocks: number;
  readonly inodes: number;
}

/**
 * Makes the metadata that put a layer on the device of the layers below it. The layer's file data are taken to
 * stand in blocks [firstBlock, firstBlock + dataBlocks), from the end of the parent on; new metadata follow, and
 * blocks of the parent that change are emitted whole. The same parent and input make the same blocks.
 *
 * @param emit Takes blocks in ascending order, each once; the bytes (a multiple of 4096) are only lent.
 * @throws FormatError ERR_LAYER_CONFLICT, ERR_LIMIT, ERR_UNSUPPORTED, ERR_EROFS_CORRUPT (the parent).
 */
export async function buildErofsLayer(
  input: ErofsLayerInput,
  emit: (block: number, bytes: Buffer) => void,
): Promise<ErofsLayer> {
  const { parent, signal } = input;
  const reader = parent === null ? null : await ErofsReader.open(parent, signal);
  // A new file system begins with block 0, which holds its superblock and root.
  const firstBlock = reader?.superblock.blocks ?? 1;
  const tree = await LayerTree.open(reader, signal);
  await applyEntries(tree, input.entries, signal);
  const plan = await planLayer(tree, { dataBlock: firstBlock, firstBlock: firstBlock + input.dataBlocks });
  const created = plan.placed.filter(({ node }) => node.lower === null).length;
  const inodes = (reader?.superblock.inodes ?? 1) - tree.removedInodes + created;
  if (inodes < 1) throw corrupt('the file system below has more inodes than its superblock says');
  const layer = { firstBlock, totalBlocks: plan.totalBlocks, inodes };
  await new LayerEmitter(input, reader, plan, layer, emit).run();
  return layer;
}

/** Bytes that go into blocks of the parent. */
interface Patch {
  readonly position: number;
  readonly length: number;
  /** Gets zeroed bytes. */
  fill(bytes: Buffer): Promise<void>;
}

class LayerEmitter {
  readonly #input: ErofsLayerInput;
  readonly #reader: ErofsReader | null;
  readonly #plan: LayerPlan;
  readonly #layer: ErofsLayer;
  readonly #blocks: BlockRun;

  constructor(
    input: ErofsLayerInput,
    reader: ErofsReader | null,
    plan: LayerPlan,
    layer: ErofsLayer,
    emit: (block: number, bytes: Buffer) => void,
  ) {
    this.#input = input;
    this.#reader = reader;
    this.#plan = plan;
    this.#layer = layer;
    this.#blocks = new BlockRun(emit, BLOCK_BYTES, RUN_BLOCKS);
  }

  async run(): Promise<void> {
    const { rootXattrs, withBlocks, placed } = this.#plan;
    await this.#rewrite();
    if (rootXattrs !== null) {
      const { startBlock, entries } = rootXattrs;
      this.#atPosition(startBlock * BLOCK_BYTES, entries.length, (bytes) => void entries.copy(bytes));
    }
    for (const planned of withBlocks) this.#writeData(planned);
    for (const planned of placed) {
      // Nearly all are new: waiting for nothing would take longer than the rest.
      const old = planned.node.lower === null ? null : await this.#oldBytes(planned);
      this.#atPosition(planned.node.nid * SLOT_BYTES, planned.slotBytes, (slot) =>
        this.#fillSlot(planned, old, slot),
      );
    }
    this.#blocks.flush();
  }

  /** Patches blocks of the parent. Those that come out as they were are not emitted, but for block 0. */
  async #rewrite(): Promise<void> {
    let number = 0;
    let block = await this.#parentBlock(0);
    for (const { position, length, fill } of this.#patches()) {
      const bytes = Buffer.alloc(length);
      await fill(bytes);
      for (let done = 0; done < length; ) {
        const next = Math.floor((position + done) / BLOCK_BYTES);
        if (next !== number) {
          if (next < number) throw corrupt(`what block ${next} holds stands inside something else`);
          await this.#emitRewritten(number, block);
          number = next;
          block = await this.#parentBlock(number);
        }
        done += bytes.copy(block, position + done - number * BLOCK_BYTES, done);
      }
    }
    await this.#emitRewritten(number, block);
  }

  /** By position. */
  #patches(): Patch[] {
    const { rewritten, relisted } = this.#plan;
    const patches = rewritten.map(
      (planned): Patch => ({
        position: planned.node.nid * SLOT_BYTES,
        length: planned.slotBytes,
        fill: async (slot) => this.#fillSlot(planned, await this.#oldBytes(planned), slot),
      }),
    );
    for (const planned of relisted) {
      for (let index = 0; index < dataBlocksOf(planned); index++) {
        patches.push({
          position: (planned.startBlock + index) * BLOCK_BYTES,
          length: BLOCK_BYTES,
          fill: async (block) => writeDirectoryBlock(planned, index, block),
        });
      }
    }
    return patches.sort((a, b) => a.position - b.position);
  }

  async #emitRewritten(number: number, block: Buffer): Promise<void> {
    if (number === 0) {
      writeSuperblock(block, {
        inodes: this.#layer.inodes,
        blocks: this.#layer.totalBlocks,
        // Only the root has shared xattrs: it keeps those of the layers below, or all are new.
        xattrBlock: this.#plan.rootXattrs?.startBlock ?? this.#reader?.superblock.xattrBlock ?? 0,
        uuid: this.#input.uuid,
      });
    } else if (block.equals(await this.#parentBlock(number))) {
      return;
    }
    block.copy(this.#blocks.block(number));
  }

  /** A copy of a block of the parent. */
  async #parentBlock(number: number): Promise<Buffer> {
    if (this.#reader === null) return Buffer.alloc(BLOCK_BYTES);
    return Buffer.from(await this.#reader.metadata(number * BLOCK_BYTES, BLOCK_BYTES, this.#input.signal));
  }

  /** Inode, xattrs and tail as they stand in the parent. */
  async #oldBytes({ node }: PlannedInode): Promise<Buffer | null> {
    if (node.lower === null || this.#reader === null) return null;
    const { nid, inodeBytes, xattrBytes, layout, size } = node.lower;
    const tail = layout === 'inline' ? size % BLOCK_BYTES : 0;
    return this.#reader.metadata(nid * SLOT_BYTES, inodeBytes + xattrBytes + tail, this.#input.signal);
  }

  /** Whole blocks of a directory, or a symbolic link that does not fit behind its inode. */
  #writeData(planned: PlannedInode): void {
    const blocks = dataBlocksOf(planned);
    for (let index = 0; index < blocks; index++) {
      const target = this.#blocks.block(planned.startBlock + index);
      if (planned.node.content?.kind === 'symlink') target.write(planned.node.content.target, 'latin1');
      else writeDirectoryBlock(planned, index, target);
    }
  }

  /** Calls `fill` with zeroed bytes that become those at `position` of the device. */
  #atPosition(position: number, length: number, fill: (bytes: Buffer) => void): void {
    const first = Math.floor(position / BLOCK_BYTES);
    const from = position - first * BLOCK_BYTES;
    if (from + length <= BLOCK_BYTES) {
      fill(this.#blocks.block(first).subarray(from, from + length));
      return;
    }
    const bytes = Buffer.alloc(length);
    fill(bytes);
    for (let done = 0, number = first; done < length; number++) {
      done += bytes.copy(this.#blocks.block(number), position + done - number * BLOCK_BYTES, done);
    }
  }

  #fillSlot(planned: PlannedInode, old: Buffer | null, slot: Buffer): void {
    const { node, xattrBytes, size, layout, startBlock } = planned;
    const attributes = node.attributes ?? node.lower;
    if (attributes === null) throw new Error(`a ${node.type} has no attributes`);
    const device =
      node.content?.kind === 'character' || node.content?.kind === 'block' ? node.content : node.lower;
    encodeInode(
      {
        nid: node.nid,
        type: node.type,
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        mtimeSeconds: attributes.mtimeSeconds,
        mtimeNanoseconds: attributes.mtimeNanoseconds,
        nlink: node.links,
        size,
        layout,
        startBlock,
        major: device?.major ?? 0,
        minor: device?.minor ?? 0,
        xattrBytes,
      },
      slot,
    );
    const tailAt = INODE_BYTES + xattrBytes;
    if (node === this.#plan.root && this.#plan.rootXattrs !== null) {
      this.#plan.rootXattrs.area.copy(slot, INODE_BYTES);
    } else if (node.attributes !== null) {
      if (xattrBytes > 0) encodeXattrs(node.attributes.xattrs, slot.subarray(INODE_BYTES, tailAt));
    } else {
      old?.copy(slot, INODE_BYTES, INODE_BYTES, tailAt);
    }
    const tail = layout === 'inline' ? size % BLOCK_BYTES : 0;
    if (tail > 0) this.#fillTail(planned, old, slot.subarray(tailAt, tailAt + tail));
  }

  #fillTail(planned: PlannedInode, old: Buffer | null, tail: Buffer): void {
    const { content } = planned.node;
    if (content?.kind === 'file') this.#input.readTail(content.inlineTail?.offset ?? 0, tail);
    else if (content?.kind === 'symlink') tail.write(content.target, 'latin1');
    else if (planned.listing !== null)
      writeDirectoryBlock(planned, planned.listing.blockStarts.length - 1, tail);
    else old?.copy(tail, 0, INODE_BYTES + planned.xattrBytes);
  }
}

function writeDirectoryBlock({ node, listing }: PlannedInode, index: number, target: Buffer): void {
  const children = node.children;
  if (listing === null || children === null) throw new Error(`a ${node.type} has no names`);
  const childOf = (name: string): Pick<TreeNode, 'nid' | 'type'> => {
    if (name === '.') return node;
    if (name === '..') return node.parent ?? node;
    const child = children.get(name);
    if (child === undefined) throw new Error('a listed name has no child');
    return child;
  };
  encodeDirectoryBlock(listing, index, childOf, target);
}

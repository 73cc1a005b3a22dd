import { writeSync } from 'node:fs';
import { type ByteSource, checkRange } from '../../src/format/byte-source.ts';
import type { ByteString } from '../../src/format/byte-string.ts';
import { buildErofsLayer, type ErofsLayer, inlineTailLength } from '../../src/format/erofs-writer.ts';
import type { Attributes, LayerEntry } from '../../src/format/layer-entry.ts';

const BLOCK_BYTES = 4096;

/** A device in memory as layers make it up: blocks by number, what nobody wrote is zero. */
export class BlockDevice implements ByteSource {
  readonly size: number;
  readonly blocks: ReadonlyMap<number, Buffer>;
  /** Offset and length of each read so far. */
  readonly reads: [offset: number, length: number][] = [];

  constructor(blocks: ReadonlyMap<number, Buffer>, totalBlocks: number) {
    this.blocks = blocks;
    this.size = totalBlocks * BLOCK_BYTES;
  }

  async read(offset: number, target: Buffer): Promise<void> {
    checkRange('device', this.size, offset, target.length);
    this.reads.push([offset, target.length]);
    target.fill(0);
    for (let done = 0; done < target.length; ) {
      const at = offset + done;
      const inBlock = at % BLOCK_BYTES;
      const length = Math.min(BLOCK_BYTES - inBlock, target.length - done);
      this.blocks.get(Math.floor(at / BLOCK_BYTES))?.copy(target, done, inBlock, inBlock + length);
      done += length;
    }
  }

  /** Writes all of it into an open file, whose length is set by the last block. */
  writeTo(fd: number): void {
    writeSync(fd, Buffer.alloc(BLOCK_BYTES), 0, BLOCK_BYTES, this.size - BLOCK_BYTES);
    for (const [number, block] of this.blocks) writeSync(fd, block, 0, BLOCK_BYTES, number * BLOCK_BYTES);
  }

  async close(): Promise<void> {}
}

export function attributes(changes: Partial<Attributes> = {}): Attributes {
  return {
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtimeSeconds: 0,
    mtimeNanoseconds: 0,
    xattrs: new Map(),
    ...changes,
  };
}

export interface StackedLayer extends ErofsLayer {
  readonly device: BlockDevice;
  /** Numbers of the metadata blocks, in the order in which they came. */
  readonly emitted: readonly number[];
}

/** Entries of a layer together with the file data that a converter would have put aside. */
export class LayerDraft {
  readonly entries: LayerEntry[] = [];
  readonly #data: Buffer[] = [];
  readonly #tails: Buffer[] = [];
  #dataBlocks = 0;
  #tailBytes = 0;

  file(path: ByteString, content: Buffer | string, changes: Partial<Attributes> = {}): this {
    const bytes = Buffer.from(content);
    const given = attributes(changes);
    const tail = inlineTailLength(bytes.length, given.xattrs);
    const whole = bytes.subarray(0, bytes.length - tail);
    this.entries.push({
      kind: 'file',
      path,
      attributes: given,
      size: bytes.length,
      firstBlock: whole.length > 0 ? this.#dataBlocks : 0,
      inlineTail: tail > 0 ? { offset: this.#tailBytes, length: tail } : null,
    });
    for (let at = 0; at < whole.length; at += BLOCK_BYTES) {
      const block = Buffer.alloc(BLOCK_BYTES);
      whole.copy(block, 0, at);
      this.#data.push(block);
      this.#dataBlocks++;
    }
    if (tail > 0) this.#tails.push(bytes.subarray(whole.length));
    this.#tailBytes += tail;
    return this;
  }

  directory(path: ByteString, changes: Partial<Attributes> = {}): this {
    return this.add({ kind: 'directory', path, attributes: attributes({ mode: 0o755, ...changes }) });
  }

  symlink(path: ByteString, target: ByteString, changes: Partial<Attributes> = {}): this {
    return this.add({ kind: 'symlink', path, attributes: attributes({ mode: 0o777, ...changes }), target });
  }

  hardlink(path: ByteString, target: ByteString, changes: Partial<Attributes> | null = null): this {
    return this.add({ kind: 'hardlink', path, target, changes: changes && attributes(changes) });
  }

  whiteout(path: ByteString): this {
    return this.add({ kind: 'whiteout', path });
  }

  opaque(path: ByteString): this {
    return this.add({ kind: 'opaque', path });
  }

  add(entry: LayerEntry): this {
    this.entries.push(entry);
    return this;
  }

  /** Builds the layer on a device and gives the device with it. */
  async on(parent: BlockDevice | null, uuid: Buffer = Buffer.alloc(16, 0x5a)): Promise<StackedLayer> {
    const blocks = new Map(parent?.blocks);
    const emitted: number[] = [];
    const tails = Buffer.concat(this.#tails);
    const layer = await buildErofsLayer(
      {
        parent,
        entries: this.entries,
        dataBlocks: this.#dataBlocks,
        readTail: (offset, target) => void tails.copy(target, 0, offset),
        uuid,
      },
      (block, bytes) => {
        for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
          const number = block + at / BLOCK_BYTES;
          emitted.push(number);
          blocks.set(number, Buffer.from(bytes.subarray(at, at + BLOCK_BYTES)));
        }
      },
    );
    for (const [index, block] of this.#data.entries()) blocks.set(layer.firstBlock + index, block);
    return { ...layer, device: new BlockDevice(blocks, layer.totalBlocks), emitted };
  }
}

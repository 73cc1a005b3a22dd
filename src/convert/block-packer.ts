import { BLOCK_BYTES } from '../format/erofs-layout.ts';
import type { LsmtWriter } from '../format/lsmt-writer.ts';
import type { SegmentBuilder } from './segment-builder.ts';
import { SECTORS_PER_BLOCK } from './units.ts';

const STAGE_BLOCKS = 256;
const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);

/** Shorter runs of zeros are kept as data: they cost little compressed, and an index entry costs 16 bytes. */
const MIN_HOLE_BLOCKS = 8;

/**
 * Lays file content out in 4096-byte blocks, one file after the other, and appends them to the layer's data.
 * Block numbers are relative to the layer: where it stands on the device is known only when the layers below
 * are. Long runs of zeros are left out; what nobody wrote reads as zero.
 */
export class BlockPacker {
  readonly #lsmt: Pick<LsmtWriter, 'appendData'>;
  readonly #segments: SegmentBuilder;
  readonly #stage = Buffer.allocUnsafe(STAGE_BLOCKS * BLOCK_BYTES);
  /** Number of the block at the start of the stage. */
  #stageBlock = 0;
  #staged = 0;

  /** `segments` gets an entry for each run of data, in sectors relative to the layer's first block. */
  constructor(lsmt: Pick<LsmtWriter, 'appendData'>, segments: SegmentBuilder) {
    this.#lsmt = lsmt;
    this.#segments = segments;
  }

  /** The block at which the next file starts. Only between files. */
  get nextBlock(): number {
    return this.#stageBlock + this.#staged / BLOCK_BYTES;
  }

  write(bytes: Buffer): void {
    let done = 0;
    while (done < bytes.length) {
      const taken = bytes.copy(this.#stage, this.#staged, done);
      this.#staged += taken;
      done += taken;
      if (this.#staged === this.#stage.length) this.#flush();
    }
  }

  writeZeros(lengthBytes: number): void {
    const toBoundary = Math.min(lengthBytes, (BLOCK_BYTES - (this.#staged % BLOCK_BYTES)) % BLOCK_BYTES);
    this.#stageZeros(toBoundary);
    const blocks = Math.floor((lengthBytes - toBoundary) / BLOCK_BYTES);
    if (blocks > 0) {
      this.#flush();
      this.#stageBlock += blocks;
    }
    this.#stageZeros(lengthBytes - toBoundary - blocks * BLOCK_BYTES);
  }

  /** Ends a file. With `inline`, gives back its last partial block (valid until the next write), else pads it. */
  endFile(inline: boolean): Buffer | null {
    const tailLength = this.#staged % BLOCK_BYTES;
    if (tailLength === 0) return null;
    if (!inline) {
      this.#stageZeros(BLOCK_BYTES - tailLength);
      return null;
    }
    this.#staged -= tailLength;
    return this.#stage.subarray(this.#staged, this.#staged + tailLength);
  }

  /** Writes out what is staged; the number of blocks of the whole layer. */
  finish(): number {
    this.#flush();
    return this.#stageBlock;
  }

  /** Stages at most a block of zeros. */
  #stageZeros(lengthBytes: number): void {
    this.write(ZERO_BLOCK.subarray(0, lengthBytes));
  }

  /** Appends the staged blocks. Only at block boundaries. */
  #flush(): void {
    const blocks = this.#staged / BLOCK_BYTES;
    let start = 0;
    let block = 0;
    while (block < blocks) {
      if (!this.#isZero(block)) {
        block++;
        continue;
      }
      const zerosFrom = block;
      while (block < blocks && this.#isZero(block)) block++;
      if (block - zerosFrom < MIN_HOLE_BLOCKS) continue;
      this.#append(start, zerosFrom);
      start = block;
    }
    this.#append(start, blocks);
    this.#stageBlock += blocks;
    this.#staged = 0;
  }

  #isZero(block: number): boolean {
    const start = block * BLOCK_BYTES;
    return this.#stage.compare(ZERO_BLOCK, 0, BLOCK_BYTES, start, start + BLOCK_BYTES) === 0;
  }

  #append(fromBlock: number, toBlock: number): void {
    if (fromBlock === toBlock) return;
    const bytes = this.#stage.subarray(fromBlock * BLOCK_BYTES, toBlock * BLOCK_BYTES);
    const dataSector = this.#lsmt.appendData(bytes);
    this.#segments.add(
      (this.#stageBlock + fromBlock) * SECTORS_PER_BLOCK,
      (toBlock - fromBlock) * SECTORS_PER_BLOCK,
      dataSector,
    );
  }
}

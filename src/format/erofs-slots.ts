import { BLOCK_BYTES, SLOT_BYTES } from './erofs-layout.ts';

/** Blocks with room left that are still offered. Few, so that what comes together stays together. */
const OPEN_BLOCKS = 16;

interface OpenBlock {
  readonly number: number;
  freeBytes: number;
}

/**
 * Finds places for inode slots in new blocks. A slot of up to one block lies in one; a longer one starts a
 * block. The same slots in the same order get the same places.
 */
export class SlotPlacer {
  readonly #open: OpenBlock[] = [];
  #blocks = 0;

  /** Blocks used so far. */
  get blocks(): number {
    return this.#blocks;
  }

  /** Byte offset for a slot of `bytes` (a multiple of 32), from the first block. */
  place(bytes: number): number {
    if (bytes % SLOT_BYTES !== 0) throw new Error(`a slot of ${bytes} bytes`);
    const fitting = this.#bestFit(bytes);
    if (fitting !== null) {
      const offset = (fitting.number + 1) * BLOCK_BYTES - fitting.freeBytes;
      fitting.freeBytes -= bytes;
      return offset;
    }
    const offset = this.#blocks * BLOCK_BYTES;
    this.#blocks += Math.ceil(bytes / BLOCK_BYTES);
    this.#offer({ number: this.#blocks - 1, freeBytes: this.#blocks * BLOCK_BYTES - offset - bytes });
    return offset;
  }

  /** The block that this slot fills best. */
  #bestFit(bytes: number): OpenBlock | null {
    let best: OpenBlock | null = null;
    for (const block of this.#open) {
      if (block.freeBytes >= bytes && (best === null || block.freeBytes < best.freeBytes)) best = block;
    }
    return best;
  }

  /** Takes a new block up, for the fullest one if there are enough. */
  #offer(block: OpenBlock): void {
    if (this.#open.length < OPEN_BLOCKS) {
      this.#open.push(block);
      return;
    }
    let fullest = 0;
    for (let index = 1; index < this.#open.length; index++) {
      if ((this.#open[index] as OpenBlock).freeBytes < (this.#open[fullest] as OpenBlock).freeBytes)
        fullest = index;
    }
    this.#open[fullest] = block;
  }
}

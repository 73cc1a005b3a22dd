import { BLOCK_BYTES, SLOT_BYTES } from './erofs-layout.ts';

/**
 * How many of the youngest blocks are looked at for room: 256 KiB, so that what comes together is also fetched
 * together. Some 5 % of the bytes stay unused, with the names of small directories in the slots; looking for the
 * tightest room instead of the first changes nothing.
 */
const OPEN_BLOCKS = 64;

interface OpenBlock {
  readonly number: number;
  freeBytes: number;
}

/**
 * Finds places for inode slots in new blocks. A slot of up to one block lies in one; a longer one starts a
 * block. The same slots in the same order get the same places.
 */
export class SlotPlacer {
  /** The oldest first. */
  readonly #open: OpenBlock[] = [];
  #blocks = 0;

  /** Blocks used so far. */
  get blocks(): number {
    return this.#blocks;
  }

  /** Byte offset for a slot of `bytes` (a multiple of 32), from the first block. */
  place(bytes: number): number {
    if (bytes % SLOT_BYTES !== 0) throw new Error(`a slot of ${bytes} bytes`);
    for (const block of this.#open) {
      if (block.freeBytes < bytes) continue;
      const offset = (block.number + 1) * BLOCK_BYTES - block.freeBytes;
      block.freeBytes -= bytes;
      return offset;
    }
    const offset = this.#blocks * BLOCK_BYTES;
    this.#blocks += Math.ceil(bytes / BLOCK_BYTES);
    this.#open.push({ number: this.#blocks - 1, freeBytes: this.#blocks * BLOCK_BYTES - offset - bytes });
    if (this.#open.length > OPEN_BLOCKS) this.#open.shift();
    return offset;
  }
}

import type { Algorithm } from '../format/block-codec.ts';
import { BlockCompressor, type BlockOptions } from '../format/zfile-blocks.ts';

/** Pieces that the owner may have under way: enough that helpers never wait for it, nor it for them. */
export const SLOTS = 8;
/** Large enough that handing a piece over costs next to nothing, small enough to share the work out evenly. */
const PIECE_BYTES = 256 * 1024;
const MAX_BLOCKS = PIECE_BYTES / 4096;
/** What an incompressible piece of the smallest blocks becomes at most, with any algorithm. */
const OUTPUT_BYTES = PIECE_BYTES + MAX_BLOCKS * 128;
const SLOT_BYTES = PIECE_BYTES + OUTPUT_BYTES + MAX_BLOCKS * Uint32Array.BYTES_PER_ELEMENT;

const ALGORITHMS: readonly Algorithm[] = ['lz4', 'zstd'];

/** States of a slot. While somebody compresses it, it has {@link TAKEN} plus the number of who that is. */
const FREE = 0;
const FULL = 1;
const DONE = 2;
const FAILED = 3;
const TAKEN = 16;
const OWNER = TAKEN;

/** The area's integers: the slot whose piece is the oldest, whether to give up, what decides the bytes. */
const OLDEST = 0;
const ABORTED = 1;
const ALGORITHM = 2;
const LEVEL = 3;
const BLOCK_BYTES = 4;
const AREA_INTEGERS = 8;
/** Behind them, those of each slot. */
const STATE = 0;
const INPUT_BYTES = 1;
const COMPRESSED_BYTES = 2;
const SLOT_INTEGERS = 4;

const HEADER_BYTES = 4096;

interface Slot {
  /** Index of its first integer. */
  readonly at: number;
  readonly input: Buffer;
  readonly output: Buffer;
  readonly lengths: Uint32Array;
}

/**
 * Memory that a layer's thread, its owner, shares with all others: slots for pieces to be compressed. The owner fills
 * slots in turn and empties them in the same order; in between, whoever has nothing else to do compresses them, the
 * owner too.
 */
export class PieceArea {
  readonly memory: SharedArrayBuffer;
  readonly #integers: Int32Array;
  readonly #slots: readonly Slot[];
  /** Makes blocks as the owner's layer wants them. Of this thread; made anew when the layer wants others. */
  #compressor: { readonly key: string; readonly blocks: BlockCompressor } | null = null;

  /** Over new memory, or over memory that another thread has made. */
  constructor(memory = new SharedArrayBuffer(HEADER_BYTES + SLOTS * SLOT_BYTES)) {
    this.memory = memory;
    this.#integers = new Int32Array(memory, 0, HEADER_BYTES / Int32Array.BYTES_PER_ELEMENT);
    this.#slots = Array.from({ length: SLOTS }, (_, index) => {
      const start = HEADER_BYTES + index * SLOT_BYTES;
      return {
        at: AREA_INTEGERS + index * SLOT_INTEGERS,
        input: Buffer.from(memory, start, PIECE_BYTES),
        output: Buffer.from(memory, start + PIECE_BYTES, OUTPUT_BYTES),
        lengths: new Uint32Array(memory, start + PIECE_BYTES + OUTPUT_BYTES, MAX_BLOCKS),
      };
    });
  }

  get isAborted(): boolean {
    return Atomics.load(this.#integers, ABORTED) !== 0;
  }

  /** Tells the owner to give its layer up. */
  abort(): void {
    Atomics.store(this.#integers, ABORTED, 1);
  }

  /** Takes back an earlier {@link abort}. */
  permit(): void {
    Atomics.store(this.#integers, ABORTED, 0);
  }

  /** For the owner: makes ready for a layer, once nobody is busy with pieces of the one before. */
  begin({ algorithm, level, blockSize }: BlockOptions): void {
    for (const slot of this.#slots) {
      this.#exchange(slot, FULL, FREE);
      for (let state = this.#state(slot); state >= TAKEN; state = this.#state(slot)) this.#wait(slot, state);
      Atomics.store(this.#integers, slot.at + STATE, FREE);
    }
    Atomics.store(this.#integers, OLDEST, 0);
    Atomics.store(this.#integers, ALGORITHM, ALGORITHMS.indexOf(algorithm));
    Atomics.store(this.#integers, LEVEL, level ?? 0);
    Atomics.store(this.#integers, BLOCK_BYTES, blockSize);
  }

  /** For the owner: where to put a piece into a free slot. */
  input(index: number): Buffer {
    return this.#slot(index).input;
  }

  /** For the owner: has the first `lengthBytes` of the slot's input compressed by whoever comes first. */
  fill(index: number, lengthBytes: number): void {
    const slot = this.#slot(index);
    Atomics.store(this.#integers, slot.at + INPUT_BYTES, lengthBytes);
    Atomics.store(this.#integers, slot.at + STATE, FULL);
  }

  /** For the owner: frees a slot; now `oldest` is the one that it will need first. */
  free(index: number, oldest: number): void {
    Atomics.store(this.#integers, this.#slot(index).at + STATE, FREE);
    Atomics.store(this.#integers, OLDEST, oldest % SLOTS);
  }

  /** For the owner: the compressed blocks of a slot; null while they are not there. Throws if that went wrong. */
  result(index: number): { readonly bytes: Buffer; readonly lengths: Uint32Array } | null {
    const slot = this.#slot(index);
    const state = this.#state(slot);
    if (state === FAILED) throw new Error('a thread could not compress a piece of the layer');
    if (state !== DONE) return null;
    const blocks = Math.ceil(this.#integer(slot.at + INPUT_BYTES) / this.#integer(BLOCK_BYTES));
    return {
      bytes: slot.output.subarray(0, this.#integer(slot.at + COMPRESSED_BYTES)),
      lengths: slot.lengths.subarray(0, blocks),
    };
  }

  /** For the owner: waits until somebody else has done with the slot. */
  waitFor(index: number): void {
    const slot = this.#slot(index);
    const state = this.#state(slot);
    if (state >= TAKEN) this.#wait(slot, state);
  }

  /** Compresses the oldest piece that nobody has taken; false if there is none. `helper` is one's number, 0 the owner. */
  compressOne(helper: number): boolean {
    const oldest = this.#integer(OLDEST);
    for (let turn = 0; turn < SLOTS; turn++) {
      const slot = this.#slot(oldest + turn);
      if (!this.#exchange(slot, FULL, OWNER + helper)) continue;
      const state = this.#compress(slot);
      // Not if it was taken away from a thread that was thought to be dead.
      this.#exchange(slot, OWNER + helper, state);
      Atomics.notify(this.#integers, slot.at + STATE);
      return true;
    }
    return false;
  }

  /** Puts back what a thread had taken that is no more. */
  abandon(helper: number): void {
    for (const slot of this.#slots) {
      if (this.#exchange(slot, OWNER + helper, FULL)) Atomics.notify(this.#integers, slot.at + STATE);
    }
  }

  #compress(slot: Slot): typeof DONE | typeof FAILED {
    try {
      const input = slot.input.subarray(0, this.#integer(slot.at + INPUT_BYTES));
      const total = this.#blockCompressor().compress(input, slot.output, slot.lengths);
      Atomics.store(this.#integers, slot.at + COMPRESSED_BYTES, total);
      return DONE;
    } catch {
      // The owner throws when it comes to this piece.
      return FAILED;
    }
  }

  #blockCompressor(): BlockCompressor {
    const [algorithm, level, blockSize] = [ALGORITHM, LEVEL, BLOCK_BYTES].map((at) => this.#integer(at));
    const key = `${algorithm} ${level} ${blockSize}`;
    if (this.#compressor?.key !== key) {
      const options = { algorithm: ALGORITHMS[algorithm!]!, level: level!, blockSize: blockSize! };
      this.#compressor = { key, blocks: new BlockCompressor(options) };
    }
    return this.#compressor.blocks;
  }

  #slot(index: number): Slot {
    return this.#slots[index % SLOTS]!;
  }

  #integer(at: number): number {
    return Atomics.load(this.#integers, at);
  }

  #state(slot: Slot): number {
    return Atomics.load(this.#integers, slot.at + STATE);
  }

  #wait(slot: Slot, state: number): void {
    Atomics.wait(this.#integers, slot.at + STATE, state);
  }

  #exchange(slot: Slot, expected: number, state: number): boolean {
    return Atomics.compareExchange(this.#integers, slot.at + STATE, expected, state) === expected;
  }
}

/** States of a slot. While somebody works on it, it has {@link TAKEN} plus the number of who that is. */
const FREE = 0;
const FULL = 1;
const DONE = 2;
const FAILED = 3;
const TAKEN = 16;

/** The ring's integers: the slot whose result is needed first. */
const OLDEST = 0;
const RING_INTEGERS = 4;
/** Behind them, those of each slot. */
const STATE = 0;
const INPUT_BYTES = 1;
const OUTPUT_BYTES = 2;
const SLOT_INTEGERS = 4;

const ALIGNMENT = 64;

export interface RingShape {
  readonly slots: number;
  readonly inputBytes: number;
  readonly outputBytes: number;
}

/** Makes the output of a slot from its input, and returns how many bytes that are. */
export type SlotWork = (input: Buffer, output: Buffer) => number;

interface Slot {
  /** Index of its first integer. */
  readonly at: number;
  readonly input: Buffer;
  readonly output: Buffer;
}

/** The memory that a ring takes. */
export function ringBytes({ slots, inputBytes, outputBytes }: RingShape): number {
  const headerBytes = (RING_INTEGERS + slots * SLOT_INTEGERS) * Int32Array.BYTES_PER_ELEMENT;
  return align(headerBytes) + slots * (align(inputBytes) + align(outputBytes));
}

/**
 * Slots in memory that threads share. One thread, the owner, fills them in turn and empties them in the same order; in
 * between, whoever has nothing else to do works on them, the owner too.
 */
export class SlotRing {
  readonly shape: RingShape;
  readonly #integers: Int32Array;
  readonly #slots: readonly Slot[];
  readonly #work: SlotWork;

  /** Over `ringBytes(shape)` of memory from `offset` on, in each thread with the same shape and work. */
  constructor(memory: SharedArrayBuffer, offset: number, shape: RingShape, work: SlotWork) {
    const { slots, inputBytes, outputBytes } = shape;
    this.shape = shape;
    this.#work = work;
    this.#integers = new Int32Array(memory, offset, RING_INTEGERS + slots * SLOT_INTEGERS);
    const first = offset + align(this.#integers.byteLength);
    this.#slots = Array.from({ length: slots }, (_, index) => {
      const start = first + index * (align(inputBytes) + align(outputBytes));
      return {
        at: RING_INTEGERS + index * SLOT_INTEGERS,
        input: Buffer.from(memory, start, inputBytes),
        output: Buffer.from(memory, start + align(inputBytes), outputBytes),
      };
    });
  }

  /** For the owner: frees all slots, once nobody works on them. */
  begin(): void {
    for (const slot of this.#slots) {
      // A slot that is taken may become full again, if who took it dies, and be taken by another.
      for (let state = this.#state(slot); state >= TAKEN || state === FULL; state = this.#state(slot)) {
        if (state >= TAKEN) this.#wait(slot, state);
        else this.#exchange(slot, FULL, FREE);
      }
      Atomics.store(this.#integers, slot.at + STATE, FREE);
    }
    Atomics.store(this.#integers, OLDEST, 0);
  }

  /** For the owner: where to put what a free slot is to work on. */
  input(index: number): Buffer {
    return this.#slot(index).input;
  }

  /** For the owner: has whoever comes first work on the first `lengthBytes` of the slot's input. */
  fill(index: number, lengthBytes: number): void {
    const slot = this.#slot(index);
    Atomics.store(this.#integers, slot.at + INPUT_BYTES, lengthBytes);
    Atomics.store(this.#integers, slot.at + STATE, FULL);
  }

  /** For the owner: a slot's output; null while it is not there. Throws if the work failed. */
  result(index: number): { readonly input: Buffer; readonly output: Buffer } | null {
    const slot = this.#slot(index);
    const state = this.#state(slot);
    if (state === FAILED) throw new Error('a thread failed in its work on a piece of the layer');
    if (state !== DONE) return null;
    return {
      input: slot.input.subarray(0, this.#integer(slot.at + INPUT_BYTES)),
      output: slot.output.subarray(0, this.#integer(slot.at + OUTPUT_BYTES)),
    };
  }

  /** For the owner: frees a slot; `oldest` is the one that it will need first now. */
  free(index: number, oldest: number): void {
    Atomics.store(this.#integers, this.#slot(index).at + STATE, FREE);
    Atomics.store(this.#integers, OLDEST, oldest % this.#slots.length);
  }

  /** For the owner: waits while somebody else works on the slot. */
  waitFor(index: number): void {
    const slot = this.#slot(index);
    const state = this.#state(slot);
    if (state >= TAKEN) this.#wait(slot, state);
  }

  /** Works on the oldest slot that is full; false if there is none. `worker` is the number of who does it. */
  workOnOne(worker: number): boolean {
    const oldest = this.#integer(OLDEST);
    for (let turn = 0; turn < this.#slots.length; turn++) {
      const slot = this.#slot(oldest + turn);
      if (!this.#exchange(slot, FULL, TAKEN + worker)) continue;
      this.#exchange(slot, TAKEN + worker, this.#workOn(slot));
      Atomics.notify(this.#integers, slot.at + STATE);
      return true;
    }
    return false;
  }

  /** Puts back what a thread had taken that is no more. */
  abandon(worker: number): void {
    for (const slot of this.#slots) {
      if (this.#exchange(slot, TAKEN + worker, FULL)) Atomics.notify(this.#integers, slot.at + STATE);
    }
  }

  #workOn(slot: Slot): typeof DONE | typeof FAILED {
    try {
      const input = slot.input.subarray(0, this.#integer(slot.at + INPUT_BYTES));
      Atomics.store(this.#integers, slot.at + OUTPUT_BYTES, this.#work(input, slot.output));
      return DONE;
    } catch {
      // The owner throws when it comes to this slot.
      return FAILED;
    }
  }

  #slot(index: number): Slot {
    return this.#slots[index % this.#slots.length]!;
  }

  #integer(at: number): number {
    return Atomics.load(this.#integers, at);
  }

  #state(slot: Slot): number {
    return this.#integer(slot.at + STATE);
  }

  #wait(slot: Slot, state: number): void {
    Atomics.wait(this.#integers, slot.at + STATE, state);
  }

  #exchange(slot: Slot, expected: number, state: number): boolean {
    return Atomics.compareExchange(this.#integers, slot.at + STATE, expected, state) === expected;
  }
}

function align(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

import type { Bell } from './bell.ts';
import type { SlotRing } from './slot-ring.ts';

/** The number of an owner among those who work for it. */
export const OWNER = 0;

/**
 * Has all threads that have nothing else to do work on what its thread fills in, and gives out the results in order. The
 * thread works itself when it would have to wait otherwise.
 */
export class RingOwner {
  readonly #ring: SlotRing;
  readonly #bell: Bell;
  readonly #take: (input: Buffer, output: Buffer) => void;
  /** Numbers of the slot whose result is needed first, and of the one to be filled next. */
  #oldest = 0;
  #next = 0;

  /** @param take gets each slot's input and output, which are only lent */
  constructor(ring: SlotRing, bell: Bell, take: (input: Buffer, output: Buffer) => void) {
    this.#ring = ring;
    this.#bell = bell;
    this.#take = take;
    ring.begin();
  }

  /** The next input to be filled; the same until it is. */
  next(): Buffer {
    while (this.#next - this.#oldest >= this.#ring.shape.slots) this.#takeOldest();
    return this.#ring.input(this.#next);
  }

  /** The first `lengthBytes` of what `next` gave are to be worked on. */
  fill(lengthBytes: number): void {
    this.#ring.fill(this.#next, lengthBytes);
    this.#next++;
    this.#bell.ring();
  }

  /** Waits until all results are given out. */
  drain(): void {
    while (this.#oldest < this.#next) this.#takeOldest();
  }

  #takeOldest(): void {
    for (let result = this.#ring.result(this.#oldest); ; result = this.#ring.result(this.#oldest)) {
      if (result !== null) {
        this.#take(result.input, result.output);
        break;
      }
      if (!this.#ring.workOnOne(OWNER)) this.#ring.waitFor(this.#oldest);
    }
    this.#oldest++;
    this.#ring.free(this.#oldest - 1, this.#oldest);
  }
}

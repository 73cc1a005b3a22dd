import { DigestState, type HashAlgorithm } from '../format/digest-state.ts';
import type { Bell } from './bell.ts';
import { OWNER } from './ring-owner.ts';

const SLOTS = 6;
const SLOT_BYTES = 256 * 1024;

/** The lane's integers: who hashes (its number plus 1, 0 nobody), how many pieces were put and how many are hashed. */
const HASHED_BY = 0;
const PUT = 1;
const HASHED = 2;
/** Whether a thread died while it hashed: what the state holds is not known then. */
const BROKEN = 3;
const LENGTHS = 4;
const INTEGERS = LENGTHS + SLOTS;
/** Where the address of the hash's state stands. */
const ADDRESS_OFFSET = 64;
const HEADER_BYTES = 128;

export const HASH_LANE_BYTES = HEADER_BYTES + SLOTS * SLOT_BYTES;

/**
 * Bytes that one thread, the owner, brings and that are hashed in order, by whichever thread has nothing else to do: one at
 * a time. What the owner has put stays readable for it until it asks for the next space.
 */
export class HashLane {
  readonly #integers: Int32Array;
  readonly #address: Float64Array;
  readonly #slots: readonly Buffer[];

  /** Over {@link HASH_LANE_BYTES} of memory. */
  constructor(memory: SharedArrayBuffer, offset: number) {
    this.#integers = new Int32Array(memory, offset, INTEGERS);
    this.#address = new Float64Array(memory, offset + ADDRESS_OFFSET, 1);
    this.#slots = Array.from({ length: SLOTS }, (_, index) =>
      Buffer.from(memory, offset + HEADER_BYTES + index * SLOT_BYTES, SLOT_BYTES),
    );
  }

  /** For the owner: begins a hash. It calls `close` in any case. */
  open(algorithm: HashAlgorithm, bell: Bell): OpenHashLane {
    Atomics.store(this.#integers, BROKEN, 0);
    this.#address[0] = DigestState.create(algorithm).address;
    return {
      next: () => this.#next(),
      put: (lengthBytes) => {
        const put = this.#integer(PUT);
        Atomics.store(this.#integers, LENGTHS + (put % SLOTS), lengthBytes);
        Atomics.store(this.#integers, PUT, put + 1);
        bell.ring();
      },
      digest: () => {
        while (this.#integer(HASHED) < this.#integer(PUT)) this.#help();
        this.#throwIfBroken();
        return `${algorithm}:${this.#state().finish(algorithm)}`;
      },
      close: () => this.#close(),
    };
  }

  /** Hashes what is there to be hashed; false if there is nothing, or somebody else is at it. */
  hash(worker: number): boolean {
    if (this.#integer(HASHED) === this.#integer(PUT)) return false;
    if (!this.#exchange(HASHED_BY, 0, worker + 1)) return false;
    try {
      for (let hashed = this.#integer(HASHED); hashed < this.#integer(PUT); hashed++) {
        const length = this.#integer(LENGTHS + (hashed % SLOTS));
        this.#state().update(this.#slots[hashed % SLOTS]!.subarray(0, length));
        Atomics.store(this.#integers, HASHED, hashed + 1);
      }
    } catch {
      // The owner throws when it comes to that.
      Atomics.store(this.#integers, BROKEN, 1);
      Atomics.store(this.#integers, HASHED, this.#integer(PUT));
    }
    this.#leave();
    return true;
  }

  /** Sees to it that nobody waits for a thread that is no more. */
  abandon(worker: number): void {
    if (this.#integer(HASHED_BY) !== worker + 1) return;
    Atomics.store(this.#integers, BROKEN, 1);
    Atomics.store(this.#integers, HASHED, this.#integer(PUT));
    this.#leave();
  }

  #next(): Buffer {
    while (this.#integer(PUT) - this.#integer(HASHED) >= SLOTS) this.#help();
    this.#throwIfBroken();
    return this.#slots[this.#integer(PUT) % SLOTS]!;
  }

  /** Hashes what there is, or waits until who is at it has finished. */
  #help(): void {
    if (this.hash(OWNER)) return;
    this.#waitForHasher();
  }

  /** Who has left meanwhile rings no more: then there is nothing to wait for. */
  #waitForHasher(): void {
    const hasher = this.#integer(HASHED_BY);
    if (hasher !== 0) Atomics.wait(this.#integers, HASHED_BY, hasher);
  }

  /** Nothing is left to be hashed then, and nobody hashes. */
  #close(): void {
    while (!this.#exchange(HASHED_BY, 0, OWNER + 1)) this.#waitForHasher();
    Atomics.store(this.#integers, PUT, 0);
    Atomics.store(this.#integers, HASHED, 0);
    this.#state().free();
    this.#leave();
  }

  #leave(): void {
    Atomics.store(this.#integers, HASHED_BY, 0);
    Atomics.notify(this.#integers, HASHED_BY);
  }

  #throwIfBroken(): void {
    if (this.#integer(BROKEN) !== 0) throw new Error('a thread failed in hashing a piece of the layer');
  }

  #state(): DigestState {
    return DigestState.at(this.#address[0] ?? 0);
  }

  #integer(at: number): number {
    return Atomics.load(this.#integers, at);
  }

  #exchange(at: number, expected: number, value: number): boolean {
    return Atomics.compareExchange(this.#integers, at, expected, value) === expected;
  }
}

/** Hashes a stream that comes in pieces. */
export interface OpenHashLane {
  /** Where to put the next piece; the same until it is put. */
  next(): Buffer;
  /** The first `lengthBytes` of what `next` gave are the stream's next bytes. */
  put(lengthBytes: number): void;
  /** Of all that was put, with the algorithm's name in front. Once. */
  digest(): string;
  close(): void;
}

/** Wakes threads that have nothing to do, once for all that is there to be done then. */
export class Bell {
  readonly memory: SharedArrayBuffer;
  readonly #rings: Int32Array;

  constructor(memory = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)) {
    this.memory = memory;
    this.#rings = new Int32Array(memory);
  }

  ring(): void {
    Atomics.add(this.#rings, 0, 1);
    Atomics.notify(this.#rings, 0, 1);
  }

  /** How often it was rung. */
  get rings(): number {
    return Atomics.load(this.#rings, 0);
  }

  /** Resolves when it was rung more often than `heard` times. Does not keep the thread alive. */
  async heardMoreThan(heard: number): Promise<void> {
    const { async, value } = Atomics.waitAsync(this.#rings, 0, heard);
    if (async) await value;
  }
}

/** Puts blocks, filled one after the other in ascending order, together and hands them on in runs. */
export class BlockRun {
  readonly #emit: (block: number, bytes: Buffer) => void;
  readonly #blockBytes: number;
  readonly #buffer: Buffer;
  #first = 0;
  #count = 0;
  /** The last block that was asked for. */
  #current: Buffer;

  constructor(emit: (block: number, bytes: Buffer) => void, blockBytes: number, runBlocks: number) {
    this.#emit = emit;
    this.#blockBytes = blockBytes;
    this.#buffer = Buffer.alloc(blockBytes * runBlocks);
    this.#current = this.#buffer;
  }

  /**
   * The bytes of block `number`, zero at first. They may be changed until another block is asked for; the same
   * block may be asked for again before that.
   */
  block(number: number): Buffer {
    if (this.#count === 0 || number !== this.#first + this.#count - 1) this.#advance(number);
    return this.#current;
  }

  /** Hands on what has not been handed on yet. */
  flush(): void {
    if (this.#count === 0) return;
    const used = this.#buffer.subarray(0, this.#count * this.#blockBytes);
    this.#emit(this.#first, used);
    used.fill(0);
    this.#count = 0;
  }

  #advance(number: number): void {
    if (this.#count > 0 && number < this.#first + this.#count)
      throw new Error(`block ${number} comes too late`);
    const isFull = this.#count * this.#blockBytes === this.#buffer.length;
    if (isFull || number !== this.#first + this.#count) this.flush();
    if (this.#count === 0) this.#first = number;
    const start = this.#count * this.#blockBytes;
    this.#current = this.#buffer.subarray(start, start + this.#blockBytes);
    this.#count++;
  }
}

/** Decompressed blocks of any number of files, up to a bound for all together; the least recently used go first. */
export class BlockMemory {
  readonly #maxBytes: number;
  /** In order of last use, the oldest first. */
  readonly #blocks = new Map<number, Buffer>();
  #bytes = 0;
  #files = 0;
  #isUsed = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The first key of a new file: that of its block n is n more. */
  newFile(): number {
    return this.#files++ * MAX_BLOCKS;
  }

  /** A whole block, not to be changed, and good until the next `keep`. */
  get(key: number): Buffer | undefined {
    const block = this.#blocks.get(key);
    if (block === undefined) return undefined;
    this.#isUsed = true;
    this.#blocks.delete(key);
    this.#blocks.set(key, block);
    return block;
  }

  /** Keeps a copy of a whole block. */
  keep(key: number, block: Buffer): void {
    this.#isUsed = true;
    const known = this.#blocks.get(key);
    if (known !== undefined || block.length > this.#maxBytes) return;
    let room: Buffer | undefined;
    for (const [oldest, bytes] of this.#blocks) {
      if (this.#bytes + block.length <= this.#maxBytes) break;
      this.#blocks.delete(oldest);
      this.#bytes -= bytes.length;
      room = bytes;
    }
    // The memory of one that went: making new memory for each block costs as much as decompressing it.
    const copy = room?.length === block.length ? room : Buffer.allocUnsafeSlow(block.length);
    block.copy(copy);
    this.#blocks.set(key, copy);
    this.#bytes += copy.length;
  }

  /** Gives all memory back if nothing was used since the last call. */
  forgetUnused(): void {
    if (!this.#isUsed) {
      this.#blocks.clear();
      this.#bytes = 0;
    }
    this.#isUsed = false;
  }
}

/** More than any file has: 256 GiB in the smallest blocks are 2^26. */
const MAX_BLOCKS = 2 ** 26;

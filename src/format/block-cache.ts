import type { ByteSource } from './byte-source.ts';

/** A walk that goes forward passes over some blocks, and is still worth reading ahead of. */
const MAX_SKIPPED_BLOCKS = 8;

/**
 * The blocks of a source that were read last, up to a number of them. Who reads on where the last read ended gets
 * ever longer pieces, up to a quarter of the cache; who jumps reads one block.
 */
export class BlockCache {
  readonly #source: ByteSource;
  readonly #blockBytes: number;
  readonly #capacityBlocks: number;
  /** In order of last use, the oldest first. */
  readonly #blocks = new Map<number, Buffer>();
  /** Where a walk forward would go on, and how many blocks it got last. */
  #ahead = { next: -1, blocks: 0 };

  constructor(source: ByteSource, options: { readonly blockBytes: number; readonly capacityBlocks: number }) {
    this.#source = source;
    this.#blockBytes = options.blockBytes;
    this.#capacityBlocks = options.capacityBlocks;
  }

  /** One whole block; it belongs to the cache and must not be changed. */
  async block(number: number, signal?: AbortSignal): Promise<Buffer> {
    const cached = this.#blocks.get(number);
    if (cached !== undefined) {
      this.#blocks.delete(number);
      this.#blocks.set(number, cached);
      return cached;
    }
    const count = this.#countToRead(number);
    const run = Buffer.allocUnsafeSlow(this.#blockBytes * count);
    await this.#source.read(number * this.#blockBytes, run, signal);
    // The block that was asked for comes last, so that it stays longest; a copy, so that it keeps no other alive.
    let block = run;
    for (let index = count - 1; index >= 0; index--) {
      const bytes = run.subarray(index * this.#blockBytes, (index + 1) * this.#blockBytes);
      block = count === 1 ? bytes : Buffer.from(bytes);
      this.#keep(number + index, block);
    }
    return block;
  }

  /** 1 at the end of the source, also where its last block is short: reading that fails as it should. */
  #countToRead(number: number): number {
    const { next, blocks } = this.#ahead;
    const goesOn = number >= next && number <= next + MAX_SKIPPED_BLOCKS;
    const wanted = goesOn ? Math.min(2 * blocks, this.#capacityBlocks / 4) : 1;
    const left = this.#source.size / this.#blockBytes - number;
    const count = Math.max(1, Math.floor(Math.min(wanted, left)));
    this.#ahead = { next: number + count, blocks: count };
    return count;
  }

  #keep(number: number, block: Buffer): void {
    this.#blocks.delete(number);
    this.#blocks.set(number, block);
    if (this.#blocks.size <= this.#capacityBlocks) return;
    for (const oldest of this.#blocks.keys()) {
      this.#blocks.delete(oldest);
      break;
    }
  }

  /** Bytes that may lie in several blocks; they must not be changed. */
  async bytes(offset: number, length: number, signal?: AbortSignal): Promise<Buffer> {
    const first = Math.floor(offset / this.#blockBytes);
    const from = offset - first * this.#blockBytes;
    if (from + length <= this.#blockBytes)
      return (await this.block(first, signal)).subarray(from, from + length);
    const whole = Buffer.allocUnsafe(length);
    let done = 0;
    while (done < length) {
      const number = Math.floor((offset + done) / this.#blockBytes);
      const block = await this.block(number, signal);
      done += block.copy(whole, done, offset + done - number * this.#blockBytes);
    }
    return whole;
  }
}

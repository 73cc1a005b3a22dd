import type { ByteSource } from './byte-source.ts';

/** The blocks of a source that were read last, up to a number of them. */
export class BlockCache {
  readonly #source: ByteSource;
  readonly #blockBytes: number;
  readonly #capacityBlocks: number;
  /** In order of last use, the oldest first. */
  readonly #blocks = new Map<number, Buffer>();

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
    const block = Buffer.allocUnsafeSlow(this.#blockBytes);
    await this.#source.read(number * this.#blockBytes, block, signal);
    this.#blocks.set(number, block);
    if (this.#blocks.size > this.#capacityBlocks) {
      for (const oldest of this.#blocks.keys()) {
        this.#blocks.delete(oldest);
        break;
      }
    }
    return block;
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

import { type ByteSource, checkRange } from './byte-source.ts';

/** `size` bytes of another source from `start` on. Closing it leaves the other source open. */
export class SliceSource implements ByteSource {
  readonly size: number;
  readonly #source: ByteSource;
  readonly #start: number;

  /** @throws SourceError ERR_SOURCE_RANGE unless the slice lies inside the source */
  constructor(source: ByteSource, start: number, size: number) {
    checkRange('slice', source.size, start, size);
    this.#source = source;
    this.#start = start;
    this.size = size;
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    checkRange('slice', this.size, offset, target.length);
    await this.#source.read(this.#start + offset, target, signal);
  }

  readNow(offset: number, target: Buffer): boolean {
    checkRange('slice', this.size, offset, target.length);
    return this.#source.readNow?.(this.#start + offset, target) ?? false;
  }

  distrust(offset: number, length: number): void {
    this.#source.distrust?.(this.#start + offset, length);
  }

  async close(): Promise<void> {}
}

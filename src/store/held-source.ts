import type { ByteSource } from '../format/byte-source.ts';

/** A source of a blob that is held until it is closed. */
export class HeldSource implements ByteSource {
  readonly size: number;
  readonly #source: ByteSource;
  readonly #release: () => void;

  constructor(source: ByteSource, release: () => void) {
    this.#source = source;
    this.size = source.size;
    this.#release = release;
  }

  read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    return this.#source.read(offset, target, signal);
  }

  async close(): Promise<void> {
    try {
      await this.#source.close();
    } finally {
      this.#release();
    }
  }
}

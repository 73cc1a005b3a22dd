import { type ByteSource, checkRange } from './byte-source.ts';

/** Bytes in memory as a {@link ByteSource}. */
export class BufferSource implements ByteSource {
  readonly size: number;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.size = bytes.length;
  }

  async read(offset: number, target: Buffer): Promise<void> {
    checkRange('buffer', this.size, offset, target.length);
    this.#bytes.copy(target, 0, offset, offset + target.length);
  }

  async close(): Promise<void> {}
}

import { type ByteSource, checkRange } from '../../src/format/byte-source.ts';

/** All that a source holds. */
export async function readAll(source: ByteSource): Promise<Buffer> {
  const bytes = Buffer.alloc(source.size);
  await source.read(0, bytes);
  return bytes;
}

/** Bytes in memory that record each read and, for tests of damage, may hand out wrong ones. */
export class SpySource implements ByteSource {
  readonly size: number;
  /** Offset and length of each read so far. */
  readonly reads: [offset: number, length: number][] = [];
  readonly #bytes: Buffer;
  readonly #damage: (offset: number, target: Buffer, readNumber: number) => void;

  constructor(
    bytes: Buffer,
    damage: (offset: number, target: Buffer, readNumber: number) => void = () => {},
  ) {
    this.#bytes = bytes;
    this.size = bytes.length;
    this.#damage = damage;
  }

  async read(offset: number, target: Buffer): Promise<void> {
    checkRange('spy', this.size, offset, target.length);
    this.reads.push([offset, target.length]);
    this.#bytes.copy(target, 0, offset);
    this.#damage(offset, target, this.reads.length);
  }

  async close(): Promise<void> {}
}

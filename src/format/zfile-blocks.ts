import { type Algorithm, type BlockCodec, blockCodec } from './block-codec.ts';
import { crc32c } from './crc32c.ts';
import { BLOCK_CRC_BYTES, BLOCK_CRC_INITIAL } from './zfile-header.ts';

/** What decides the bytes of a ZFile's blocks. */
export interface BlockOptions {
  readonly algorithm: Algorithm;
  /** Of zstd; 3 if not given. LZ4 has none. */
  readonly level?: number;
  /** Uncompressed bytes a block. */
  readonly blockSize: number;
  /** Whether each block gets a checksum; yes if not given. */
  readonly verify?: boolean;
}

/** Compresses pieces of several blocks. Blocks do not depend on each other, so pieces neither. Not to be shared between threads. */
export class BlockCompressor {
  readonly #codec: BlockCodec;
  readonly #blockSize: number;
  readonly #verify: boolean;

  constructor(options: BlockOptions) {
    this.#codec = blockCodec(options.algorithm, options.level);
    this.#blockSize = options.blockSize;
    this.#verify = options.verify ?? true;
  }

  /** The most bytes that a piece of `length` bytes can become. */
  bound(length: number): number {
    return Math.ceil(length / this.#blockSize) * (this.#codec.bound(this.#blockSize) + BLOCK_CRC_BYTES);
  }

  /**
   * Compresses whole blocks (only a file's last one is shorter), each with its checksum behind it, into `output`, which
   * holds `bound(input.length)` bytes. Puts each one's length into `lengths` and returns their sum.
   */
  compress(input: Buffer, output: Buffer, lengths: Uint32Array): number {
    let total = 0;
    for (let at = 0, index = 0; at < input.length; at += this.#blockSize, index++) {
      const block = input.subarray(at, at + this.#blockSize);
      let length = this.#codec.compress(block, output.subarray(total));
      if (this.#verify) {
        const crc = crc32c(output.subarray(total, total + length), BLOCK_CRC_INITIAL);
        output.writeUInt32LE(crc, total + length);
        length += BLOCK_CRC_BYTES;
      }
      lengths[index] = length;
      total += length;
    }
    return total;
  }
}

/** Takes compressed blocks, one after the other in `bytes`, and the length of each; both are only lent. */
export type TakeBlocks = (bytes: Buffer, lengths: Uint32Array) => void;

/** Compresses a file piece by piece; what comes out is in the order in which it went in. */
export interface PieceCompressor {
  /** What to fill with the next piece: whole blocks. */
  next(): Buffer;
  /** The first `lengthBytes` of what `next` gave are to be compressed; all of them, but for the file's last piece. */
  fill(lengthBytes: number): void;
  /** Waits until all pieces have come out. */
  drain(): void;
}

const PIECE_BYTES = 256 * 1024;

/** Compresses each piece at once, in this thread. */
export function inlineCompressor(options: BlockOptions, take: TakeBlocks): PieceCompressor {
  const blocks = new BlockCompressor(options);
  const input = Buffer.allocUnsafe(PIECE_BYTES);
  const output = Buffer.allocUnsafe(blocks.bound(PIECE_BYTES));
  const lengths = new Uint32Array(PIECE_BYTES / options.blockSize);
  return {
    next: () => input,
    fill(lengthBytes) {
      const total = blocks.compress(input.subarray(0, lengthBytes), output, lengths);
      take(output.subarray(0, total), lengths.subarray(0, Math.ceil(lengthBytes / options.blockSize)));
    },
    drain() {},
  };
}

import { type Algorithm, type BlockCodec, blockCodec } from './block-codec.ts';
import { crc32c } from './crc32c.ts';
import { FormatError } from './errors.ts';
import type { Sink } from './sink.ts';
import { BLOCK_CRC_BYTES, BLOCK_CRC_INITIAL, encodeZFileHeader, type ZFileHeader } from './zfile-header.ts';

export interface ZFileOptions {
  readonly algorithm: Algorithm;
  /** Of zstd; 3 if not given. LZ4 has none. */
  readonly level?: number;
  /** Uncompressed bytes a block: one of {@link WRITABLE_BLOCK_SIZES}. */
  readonly blockSize: number;
  /** Whether each block gets a checksum; yes if not given. */
  readonly verify?: boolean;
}

/**
 * Not 64 KiB, which the format knows too: at that size a block of incompressible data, stored expanded, is
 * longer than the buffer of the stock reader, and whether data is incompressible shows only when it is too late.
 */
export const WRITABLE_BLOCK_SIZES: readonly number[] = [4096, 8192, 16_384, 32_768];

/** Compressed bytes are handed to the sink in pieces of about this size. */
const OUTPUT_BYTES = 256 * 1024;

/** What is known only when all is written. */
type Contents = Pick<ZFileHeader, 'originalSize' | 'indexOffset' | 'indexEntries' | 'indexCrc'>;
const UNKNOWN: Contents = { originalSize: 0, indexOffset: 0, indexEntries: 0, indexCrc: 0 };

/**
 * Compresses what is written to it into a ZFile, streaming: the sink only ever appends. The same bytes give the
 * same file, in whatever pieces they come.
 *
 * The file starts with a header that refers readers to the trailer, so it is complete as it is; the header that
 * `finish` returns spares readers that look, and is what the stock tools put into layers.
 */
export class ZFileWriter implements Sink {
  readonly #sink: Sink;
  readonly #codec: BlockCodec;
  readonly #blockSize: number;
  readonly #verify: boolean;
  /** The most bytes that a block takes in the file. */
  readonly #blockBound: number;
  /** The start of a block that is not yet full. */
  readonly #partial: Buffer;
  #partialBytes = 0;
  readonly #output = Buffer.allocUnsafe(OUTPUT_BYTES);
  #outputBytes = 0;
  #originalSize = 0;
  /** Bytes before what is in #output. */
  #flushedBytes = 0;
  #index = new Uint32Array(1024);
  #indexEntries = 0;
  #isFinished = false;

  /** @throws FormatError ERR_UNSUPPORTED for a block size that is not written */
  constructor(sink: Sink, options: ZFileOptions) {
    if (!WRITABLE_BLOCK_SIZES.includes(options.blockSize)) {
      throw new FormatError(
        'ERR_UNSUPPORTED',
        `a ZFile is not written in blocks of ${options.blockSize} bytes, but of ${WRITABLE_BLOCK_SIZES.join(', ')}`,
      );
    }
    this.#sink = sink;
    this.#codec = blockCodec(options.algorithm, options.level);
    this.#blockSize = options.blockSize;
    this.#verify = options.verify ?? true;
    this.#blockBound = this.#codec.bound(options.blockSize) + BLOCK_CRC_BYTES;
    this.#partial = Buffer.allocUnsafe(options.blockSize);
    this.#append(this.#encodeHeader({ ...UNKNOWN, kind: 'header', overwritten: false }));
  }

  write(bytes: Buffer): void {
    if (this.#isFinished) throw new Error('ZFileWriter: write after finish');
    this.#originalSize += bytes.length;
    let at = 0;
    if (this.#partialBytes > 0) {
      at = bytes.copy(this.#partial, this.#partialBytes);
      this.#partialBytes += at;
      if (this.#partialBytes < this.#blockSize) return;
      this.#addBlock(this.#partial);
      this.#partialBytes = 0;
    }
    for (; at + this.#blockSize <= bytes.length; at += this.#blockSize) {
      this.#addBlock(bytes.subarray(at, at + this.#blockSize));
    }
    this.#partialBytes = bytes.copy(this.#partial, 0, at);
  }

  /**
   * Writes the last block, index and trailer. `headerBytes` (512) may then be put over the first bytes of the
   * file; `sizeBytes` is the size of the whole file.
   */
  finish(): { headerBytes: Buffer; sizeBytes: number } {
    if (this.#isFinished) throw new Error('ZFileWriter: finished twice');
    this.#isFinished = true;
    if (this.#partialBytes > 0) this.#addBlock(this.#partial.subarray(0, this.#partialBytes));
    const index = this.#encodeIndex();
    const contents: Contents = {
      originalSize: this.#originalSize,
      indexOffset: this.#flushedBytes + this.#outputBytes,
      indexEntries: this.#indexEntries,
      indexCrc: crc32c(index, 0),
    };
    this.#append(index);
    this.#append(this.#encodeHeader({ ...contents, kind: 'trailer', overwritten: false }));
    this.#flush();
    return {
      headerBytes: this.#encodeHeader({ ...contents, kind: 'header', overwritten: true }),
      sizeBytes: this.#flushedBytes,
    };
  }

  #addBlock(block: Buffer): void {
    if (this.#outputBytes + this.#blockBound > this.#output.length) this.#flush();
    const start = this.#outputBytes;
    let length = this.#codec.compress(block, this.#output.subarray(start));
    if (this.#verify) {
      const crc = crc32c(this.#output.subarray(start, start + length), BLOCK_CRC_INITIAL);
      this.#output.writeUInt32LE(crc, start + length);
      length += BLOCK_CRC_BYTES;
    }
    this.#outputBytes += length;
    this.#addIndexEntry(length);
  }

  #addIndexEntry(length: number): void {
    if (this.#indexEntries === this.#index.length) {
      const longer = new Uint32Array(this.#index.length * 2);
      longer.set(this.#index);
      this.#index = longer;
    }
    this.#index[this.#indexEntries++] = length;
  }

  #encodeIndex(): Buffer {
    const bytes = Buffer.allocUnsafe(this.#indexEntries * 4);
    for (let i = 0; i < this.#indexEntries; i++) bytes.writeUInt32LE(this.#index[i]!, i * 4);
    return bytes;
  }

  #encodeHeader(what: Contents & Pick<ZFileHeader, 'kind' | 'overwritten'>): Buffer {
    return encodeZFileHeader({
      ...what,
      hasDigests: true,
      blockSize: this.#blockSize,
      algorithm: this.#codec.algorithm,
      verify: this.#verify,
      dictionarySize: 0,
    });
  }

  #append(bytes: Buffer): void {
    if (this.#outputBytes + bytes.length > this.#output.length) this.#flush();
    if (bytes.length > this.#output.length) {
      this.#sink.write(bytes);
      this.#flushedBytes += bytes.length;
      return;
    }
    this.#outputBytes += bytes.copy(this.#output, this.#outputBytes);
  }

  #flush(): void {
    if (this.#outputBytes === 0) return;
    this.#sink.write(this.#output.subarray(0, this.#outputBytes));
    this.#flushedBytes += this.#outputBytes;
    this.#outputBytes = 0;
  }
}

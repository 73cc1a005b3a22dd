import { crc32c } from './crc32c.ts';
import { FormatError } from './errors.ts';
import type { Sink } from './sink.ts';
import {
  type BlockOptions,
  inlineCompressor,
  type PieceCompressor,
  type TakeBlocks,
} from './zfile-blocks.ts';
import { encodeZFileHeader, type ZFileHeader } from './zfile-header.ts';

/**
 * Not 64 KiB, which the format knows too: at that size a block of incompressible data, stored expanded, is
 * longer than the buffer of the stock reader, and whether data is incompressible shows only when it is too late.
 */
export const WRITABLE_BLOCK_SIZES: readonly number[] = [4096, 8192, 16_384, 32_768];

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
  readonly #options: BlockOptions;
  readonly #pieces: PieceCompressor;
  /** The piece at hand, and how much of it is filled. */
  #piece: Buffer;
  #pieceFilled = 0;
  #originalSize = 0;
  #sizeBytes = 0;
  #index = new Uint32Array(1024);
  #indexEntries = 0;
  #isFinished = false;

  /**
   * @param compressor makes what compresses, in this thread if not given
   * @throws FormatError ERR_UNSUPPORTED for a block size that is not written
   */
  constructor(
    sink: Sink,
    options: BlockOptions,
    compressor: (options: BlockOptions, take: TakeBlocks) => PieceCompressor = inlineCompressor,
  ) {
    if (!WRITABLE_BLOCK_SIZES.includes(options.blockSize)) {
      throw new FormatError(
        'ERR_UNSUPPORTED',
        `a ZFile is not written in blocks of ${options.blockSize} bytes, but of ${WRITABLE_BLOCK_SIZES.join(', ')}`,
      );
    }
    this.#sink = sink;
    this.#options = options;
    this.#pieces = compressor(options, (bytes, lengths) => this.#takeBlocks(bytes, lengths));
    this.#piece = this.#pieces.next();
    this.#append(this.#encodeHeader({ ...UNKNOWN, kind: 'header', overwritten: false }));
  }

  write(bytes: Buffer): void {
    if (this.#isFinished) throw new Error('ZFileWriter: write after finish');
    this.#originalSize += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const taken = bytes.copy(this.#piece, this.#pieceFilled, at);
      at += taken;
      this.#pieceFilled += taken;
      if (this.#pieceFilled === this.#piece.length) this.#nextPiece();
    }
  }

  /**
   * Writes the last block, index and trailer. `headerBytes` (512) may then be put over the first bytes of the
   * file; `sizeBytes` is the size of the whole file.
   */
  finish(): { headerBytes: Buffer; sizeBytes: number } {
    if (this.#isFinished) throw new Error('ZFileWriter: finished twice');
    this.#isFinished = true;
    if (this.#pieceFilled > 0) this.#pieces.fill(this.#pieceFilled);
    this.#pieces.drain();
    const index = this.#encodeIndex();
    const contents: Contents = {
      originalSize: this.#originalSize,
      indexOffset: this.#sizeBytes,
      indexEntries: this.#indexEntries,
      indexCrc: crc32c(index, 0),
    };
    this.#append(index);
    this.#append(this.#encodeHeader({ ...contents, kind: 'trailer', overwritten: false }));
    return {
      headerBytes: this.#encodeHeader({ ...contents, kind: 'header', overwritten: true }),
      sizeBytes: this.#sizeBytes,
    };
  }

  #nextPiece(): void {
    this.#pieces.fill(this.#pieceFilled);
    this.#piece = this.#pieces.next();
    this.#pieceFilled = 0;
  }

  #takeBlocks(bytes: Buffer, lengths: Uint32Array): void {
    this.#append(bytes);
    if (this.#indexEntries + lengths.length > this.#index.length) {
      const longer = new Uint32Array(this.#index.length * 2);
      longer.set(this.#index);
      this.#index = longer;
    }
    this.#index.set(lengths, this.#indexEntries);
    this.#indexEntries += lengths.length;
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
      blockSize: this.#options.blockSize,
      algorithm: this.#options.algorithm,
      verify: this.#options.verify ?? true,
      dictionarySize: 0,
    });
  }

  #append(bytes: Buffer): void {
    this.#sink.write(bytes);
    this.#sizeBytes += bytes.length;
  }
}

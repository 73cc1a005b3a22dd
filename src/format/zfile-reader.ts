import { type BlockCodec, blockCodec } from './block-codec.ts';
import { type ByteSource, checkRange, SourceError } from './byte-source.ts';
import { crc32c } from './crc32c.ts';
import { FormatError } from './errors.ts';
import {
  BLOCK_CRC_BYTES,
  BLOCK_CRC_INITIAL,
  decodeZFileHeader,
  ZFILE_HEADER_BYTES,
  type ZFileHeader,
} from './zfile-header.ts';

/** 256 GiB in the smallest blocks. The format allows 10^9, which no layer needs and no host wants to hold. */
const MAX_INDEX_ENTRIES = 2 ** 26;

/** The index is read in pieces of this size, so that a false count costs little. */
const INDEX_PIECE_BYTES = 1 << 20;

/** Incompressible blocks are stored expanded, but by far less than this factor. */
const MAX_EXPANSION = 2;

/** What a ZFile holds, decompressed. Reads may overlap. Closing it leaves the source below open. */
export class ZFileReader implements ByteSource {
  readonly header: ZFileHeader;
  /** Uncompressed bytes. */
  readonly size: number;
  readonly #source: ByteSource;
  readonly #codec: BlockCodec;
  /** Where block i starts in the ZFile; one more entry for the end of the last. */
  readonly #offsets: Float64Array;
  /** For blocks of which a read wants only a part. Never in use across an await. */
  readonly #scratch: Buffer;

  private constructor(source: ByteSource, header: ZFileHeader, offsets: Float64Array) {
    this.header = header;
    this.size = header.originalSize;
    this.#source = source;
    this.#codec = blockCodec(header.algorithm);
    this.#offsets = offsets;
    this.#scratch = Buffer.allocUnsafeSlow(header.blockSize);
  }

  /**
   * Reads header, trailer and index of the ZFile that `source` is from its first to its last byte.
   *
   * @throws FormatError ERR_ZFILE_CORRUPT, ERR_UNSUPPORTED, ERR_LIMIT; SourceError
   */
  static async open(source: ByteSource, signal?: AbortSignal): Promise<ZFileReader> {
    const header = await readHeader(source, signal);
    return new ZFileReader(source, header, await readIndex(source, header, signal));
  }

  /** Blocks that do not match their checksum are read a second time, then reported as ERR_SOURCE_CORRUPT. */
  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    checkRange('ZFile', this.size, offset, target.length);
    if (target.length === 0) return;
    const { blockSize } = this.header;
    const first = Math.floor(offset / blockSize);
    const last = Math.floor((offset + target.length - 1) / blockSize);
    const start = this.#offsets[first]!;
    const run = Buffer.allocUnsafe(this.#offsets[last + 1]! - start);
    await this.#source.read(start, run, signal);
    for (let block = first; block <= last; block++) {
      const stored = run.subarray(this.#offsets[block]! - start, this.#offsets[block + 1]! - start);
      const failure = this.#unpack(block, stored, offset, target);
      if (failure !== null) await this.#retry(block, failure, offset, target, signal);
    }
  }

  async close(): Promise<void> {}

  async #retry(
    block: number,
    failure: string,
    offset: number,
    target: Buffer,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const start = this.#offsets[block]!;
    const stored = Buffer.allocUnsafe(this.#offsets[block + 1]! - start);
    await this.#source.read(start, stored, signal);
    const again = this.#unpack(block, stored, offset, target);
    if (again === null) return;
    throw new SourceError(
      'ERR_SOURCE_CORRUPT',
      `ZFile: block ${block}, ${stored.length} bytes at ${start}, is damaged: ${failure}; read again: ${again}`,
    );
  }

  /** Puts the part of a block that lies in [offset, offset + target.length) there. Returns what is wrong. */
  #unpack(block: number, stored: Buffer, offset: number, target: Buffer): string | null {
    const { blockSize, verify } = this.header;
    let packed = stored;
    if (verify) {
      packed = stored.subarray(0, stored.length - BLOCK_CRC_BYTES);
      if (crc32c(packed, BLOCK_CRC_INITIAL) !== stored.readUInt32LE(packed.length)) return 'checksum differs';
    }
    const blockStart = block * blockSize;
    const length = Math.min(blockSize, this.size - blockStart);
    const from = Math.max(offset, blockStart);
    const to = Math.min(offset + target.length, blockStart + length);
    const isWhole = to - from === length;
    const output = isWhole ? target.subarray(from - offset, to - offset) : this.#scratch.subarray(0, length);
    const failure = this.#decompress(packed, output);
    if (failure === null && !isWhole) output.copy(target, from - offset, from - blockStart, to - blockStart);
    return failure;
  }

  #decompress(packed: Buffer, output: Buffer): string | null {
    try {
      const length = this.#codec.decompress(packed, output);
      return length === output.length ? null : `it holds ${length} bytes instead of ${output.length}`;
    } catch (error) {
      if (error instanceof FormatError) return error.message;
      throw error;
    }
  }
}

async function readHeader(source: ByteSource, signal: AbortSignal | undefined): Promise<ZFileHeader> {
  if (source.size < 2 * ZFILE_HEADER_BYTES) {
    throw new FormatError('ERR_ZFILE_CORRUPT', `${source.size} bytes are too few for a ZFile`);
  }
  const bytes = Buffer.alloc(ZFILE_HEADER_BYTES);
  await source.read(0, bytes, signal);
  const header = decodeZFileHeader(bytes, 'header');
  if (header.overwritten) return header;
  await source.read(source.size - ZFILE_HEADER_BYTES, bytes, signal);
  return decodeZFileHeader(bytes, 'trailer');
}

async function readIndex(
  source: ByteSource,
  header: ZFileHeader,
  signal: AbortSignal | undefined,
): Promise<Float64Array> {
  checkGeometry(source.size, header);
  const count = header.indexEntries;
  const offsets = new Float64Array(count + 1);
  offsets[0] = ZFILE_HEADER_BYTES + header.dictionarySize;
  let crc = 0;
  for (let done = 0; done < count; ) {
    const piece = Buffer.allocUnsafe(Math.min(INDEX_PIECE_BYTES, (count - done) * 4));
    await source.read(header.indexOffset + done * 4, piece, signal);
    crc = crc32c(piece, crc);
    addLengths(header, piece, offsets, done);
    done += piece.length / 4;
  }
  if (header.hasDigests && crc !== header.indexCrc) throw corrupt('the index does not match its checksum');
  if (offsets[count]! > header.indexOffset) throw corrupt('the blocks reach into the index');
  return offsets;
}

/** Continues `offsets` after entry `from` with the block lengths in `piece`. */
function addLengths(header: ZFileHeader, piece: Buffer, offsets: Float64Array, from: number): void {
  const least = (header.verify ? BLOCK_CRC_BYTES : 0) + 1;
  const most = header.blockSize * MAX_EXPANSION;
  let offset = offsets[from]!;
  for (let at = 0, block = from; at < piece.length; at += 4, block++) {
    const length = piece.readUInt32LE(at);
    if (length < least || length > most) throw corrupt(`block ${block} has a length of ${length} bytes`);
    offset += length;
    offsets[block + 1] = offset;
  }
}

/** Before anything is allocated by what the header says. */
function checkGeometry(fileSize: number, header: ZFileHeader): void {
  const { indexOffset, indexEntries, originalSize, blockSize } = header;
  if (indexOffset + indexEntries * 4 > fileSize) {
    throw corrupt(
      `an index of ${indexEntries} entries at ${indexOffset} is not inside its ${fileSize} bytes`,
    );
  }
  if (indexEntries !== Math.ceil(originalSize / blockSize)) {
    throw corrupt(`${indexEntries} blocks of ${blockSize} bytes cannot hold ${originalSize}`);
  }
  if (indexEntries > MAX_INDEX_ENTRIES) {
    throw new FormatError('ERR_LIMIT', `ZFile: ${indexEntries} blocks are more than ${MAX_INDEX_ENTRIES}`);
  }
}

function corrupt(what: string): FormatError {
  return new FormatError('ERR_ZFILE_CORRUPT', `ZFile: ${what}`);
}

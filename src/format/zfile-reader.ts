import { type BlockCodec, blockCodec } from './block-codec.ts';
import type { BlockMemory } from './block-memory.ts';
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

/** What takes longer to decompress than a caller that cannot do anything else meanwhile should wait: some 1 ms. */
const MAX_READ_NOW_BYTES = 1 << 20;
/** Room for what that much is compressed to, and for the blocks that it begins and ends in. */
const PACKED_BYTES = MAX_READ_NOW_BYTES + (256 << 10);
/** Of all readers: never in use when one returns. Most of it is never touched. */
let packed: Buffer | undefined;

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
  readonly #memory: BlockMemory | undefined;
  /** Of block 0 in the memory. */
  readonly #firstKey: number;

  private constructor(
    source: ByteSource,
    header: ZFileHeader,
    offsets: Float64Array,
    memory: BlockMemory | undefined,
  ) {
    this.header = header;
    this.size = header.originalSize;
    this.#source = source;
    this.#codec = blockCodec(header.algorithm);
    this.#offsets = offsets;
    this.#scratch = Buffer.allocUnsafeSlow(header.blockSize);
    this.#memory = memory;
    this.#firstKey = memory?.newFile() ?? 0;
  }

  /**
   * Reads header, trailer and index of the ZFile that `source` is from its first to its last byte. With `memory`, blocks
   * of which a read wants only a part are kept there: the next read may want another part.
   *
   * @throws FormatError ERR_ZFILE_CORRUPT, ERR_UNSUPPORTED, ERR_LIMIT; SourceError
   */
  static async open(source: ByteSource, signal?: AbortSignal, memory?: BlockMemory): Promise<ZFileReader> {
    const header = await readHeader(source, signal);
    return new ZFileReader(source, header, await readIndex(source, header, signal), memory);
  }

  /** Blocks that do not match their checksum are read a second time, then reported as ERR_SOURCE_CORRUPT. */
  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    checkRange('ZFile', this.size, offset, target.length);
    if (target.length === 0 || this.#fromMemory(offset, target)) return;
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

  /** A damaged block is left to `read`, which tries again and reports it. */
  readNow(offset: number, target: Buffer): boolean {
    checkRange('ZFile', this.size, offset, target.length);
    if (target.length === 0 || this.#fromMemory(offset, target)) return true;
    if (target.length > MAX_READ_NOW_BYTES || this.#source.readNow === undefined) return false;
    const { blockSize } = this.header;
    const first = Math.floor(offset / blockSize);
    const last = Math.floor((offset + target.length - 1) / blockSize);
    const start = this.#offsets[first]!;
    const runBytes = this.#offsets[last + 1]! - start;
    packed ??= Buffer.allocUnsafeSlow(PACKED_BYTES);
    if (runBytes > packed.length) return false;
    const run = packed.subarray(0, runBytes);
    if (!this.#source.readNow(start, run)) return false;
    for (let block = first; block <= last; block++) {
      const stored = run.subarray(this.#offsets[block]! - start, this.#offsets[block + 1]! - start);
      if (this.#unpack(block, stored, offset, target) !== null) return false;
    }
    return true;
  }

  async close(): Promise<void> {}

  /** False if any block of the range is not there. */
  #fromMemory(offset: number, target: Buffer): boolean {
    if (this.#memory === undefined) return false;
    const { blockSize } = this.header;
    for (let done = 0; done < target.length; ) {
      const block = Math.floor((offset + done) / blockSize);
      const bytes = this.#memory.get(this.#firstKey + block);
      if (bytes === undefined) return false;
      done += bytes.copy(target, done, offset + done - block * blockSize);
    }
    return true;
  }

  async #retry(
    block: number,
    failure: string,
    offset: number,
    target: Buffer,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const start = this.#offsets[block]!;
    const stored = Buffer.allocUnsafe(this.#offsets[block + 1]! - start);
    this.#source.distrust?.(start, stored.length);
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
    if (failure === null && !isWhole) {
      output.copy(target, from - offset, from - blockStart, to - blockStart);
      this.#memory?.keep(this.#firstKey + block, output);
    }
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

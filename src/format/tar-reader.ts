import { type ByteString, toDisplay } from './byte-string.ts';
import { FormatError } from './errors.ts';
import { memberOf, type TarEntry, type TarMember } from './tar-entry.ts';
import { ExtendedHeaders, type ExtendedTypeflag } from './tar-extensions.ts';
import { decodeHeader, isZeroBlock, TAR_BLOCK_BYTES, type TarHeader } from './tar-header.ts';
import { MAX_EXTENDED_HEADER_BYTES } from './tar-pax.ts';
import {
  checkExtents,
  MAX_FILE_BYTES,
  readOldGnuExtents,
  readOldGnuSize,
  type SparseExtents,
  SparseMapReader,
} from './tar-sparse.ts';

export type { TarEntry } from './tar-entry.ts';

/** What an archive holds, in its order: for each member `entry`, then its bytes, then `end`. */
export interface TarHandler {
  entry(entry: TarEntry): void;
  /** The next bytes of the current file: a part of the chunk that was written, only good until this returns. */
  data(bytes: Buffer): void;
  /** The next bytes of the current file are that many zeros, which a sparse file need not store. */
  hole(lengthBytes: number): void;
  end(entry: TarEntry): void;
}

type State =
  | { readonly kind: 'header' }
  | {
      readonly kind: 'extended';
      readonly typeflag: ExtendedTypeflag;
      readonly body: Buffer;
      filled: number;
    }
  | { readonly kind: 'old-gnu-map'; readonly member: TarMember; readonly extents: number[] }
  | { readonly kind: 'pax-map'; readonly member: TarMember; readonly map: SparseMapReader; mapBytes: number }
  | { readonly kind: 'data'; readonly entry: TarEntry; readonly paddingBytes: number }
  | { readonly kind: 'skip'; readonly what: string; left: number; readonly paddingBytes: number }
  | { readonly kind: 'padding'; left: number }
  | { readonly kind: 'end' };

const HEADER: State = { kind: 'header' };
const END: State = { kind: 'end' };

/**
 * Reads a tar archive as its bytes come, in chunks of any size: v7, ustar, pax and GNU tar's own format with their
 * extensions. File data is handed on as it is, nothing is kept but the header at hand, so memory is bounded.
 *
 * Names are bytes and are not judged here, except that they hold no NUL. Bytes behind the end of the archive are
 * ignored. Errors are {@link FormatError}: ERR_TAR_CORRUPT, ERR_LIMIT, or ERR_UNSUPPORTED for entries of a type
 * that no file system holds. After an error (the handler's too) the reader is of no more use.
 */
export class TarReader {
  readonly #handler: TarHandler;
  #state: State = HEADER;
  /** Bytes of the archive that were taken so far. */
  #position = 0;
  /** The block at hand, a header in most cases. */
  readonly #block = Buffer.alloc(TAR_BLOCK_BYTES);
  #blockFilled = 0;
  /** Where the block at hand stands. */
  #blockOffset = 0;
  #afterZeroBlock = false;
  /** Where the header of the current member stands. */
  #headerOffset = 0;
  readonly #extended = new ExtendedHeaders();
  /** Of the current file: the pieces of its data, the next one, the bytes left of this one, and where it is. */
  #extents: SparseExtents = [];
  #nextExtent = 0;
  #pieceLeft = 0;
  #filePosition = 0;

  constructor(handler: TarHandler) {
    this.#handler = handler;
  }

  /** Takes the archive's next bytes. The chunk may be used again after this returns. */
  write(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      const taken = this.#take(chunk, at);
      at += taken;
      this.#position += taken;
    }
  }

  /** Says that no more bytes come. Throws ERR_TAR_CORRUPT if the archive is cut short. */
  finish(): void {
    const missing = this.#missing();
    if (missing === null) return;
    throw new FormatError('ERR_TAR_CORRUPT', `tar archive: it ends at byte ${this.#position}, ${missing}`);
  }

  /** What the archive would break off in if it ended here; null if it may end here. */
  #missing(): string | null {
    const state = this.#state;
    const inside = ({ path }: TarEntry) =>
      `inside ${toDisplay(path)}, whose header is at ${this.#headerOffset}`;
    switch (state.kind) {
      case 'data':
        return inside(state.entry);
      case 'pax-map':
      case 'old-gnu-map':
        return inside(state.member.entry);
      case 'skip':
        return `inside ${state.what}`;
      case 'extended':
        return 'inside an extended header';
      case 'end':
        return null;
      // Some writers do not fill up the last block.
      case 'padding':
      case 'header':
        return this.#blockFilled > 0 ? 'inside a header' : null;
    }
  }

  /** Takes some bytes of the chunk from `at` on, at least one, and returns how many. */
  #take(chunk: Buffer, at: number): number {
    const state = this.#state;
    const available = chunk.length - at;
    switch (state.kind) {
      case 'data': {
        const count = Math.min(available, this.#pieceLeft);
        this.#pieceLeft -= count;
        this.#filePosition += count;
        this.#handler.data(count === chunk.length ? chunk : chunk.subarray(at, at + count));
        if (this.#pieceLeft === 0) this.#nextPiece(state.entry, state.paddingBytes);
        return count;
      }
      case 'skip': {
        const count = Math.min(available, state.left);
        state.left -= count;
        if (state.left === 0) this.#pad(state.paddingBytes);
        return count;
      }
      case 'padding': {
        const count = Math.min(available, state.left);
        state.left -= count;
        if (state.left === 0) this.#state = HEADER;
        return count;
      }
      case 'extended': {
        const count = Math.min(available, state.body.length - state.filled);
        chunk.copy(state.body, state.filled, at, at + count);
        state.filled += count;
        if (state.filled === state.body.length) this.#takeExtended(state.typeflag, state.body);
        return count;
      }
      case 'end':
        return available;
      default:
        return this.#takeBlockBytes(chunk, at);
    }
  }

  #takeBlockBytes(chunk: Buffer, at: number): number {
    if (this.#blockFilled === 0) this.#blockOffset = this.#position;
    const count = Math.min(chunk.length - at, TAR_BLOCK_BYTES - this.#blockFilled);
    chunk.copy(this.#block, this.#blockFilled, at, at + count);
    this.#blockFilled += count;
    if (this.#blockFilled === TAR_BLOCK_BYTES) {
      this.#blockFilled = 0;
      this.#takeBlock(this.#block);
    }
    return count;
  }

  #takeBlock(block: Buffer): void {
    const state = this.#state;
    switch (state.kind) {
      case 'old-gnu-map':
        this.#takeOldGnuMap(state, block);
        break;
      case 'pax-map':
        this.#takePaxMap(state, block);
        break;
      default:
        this.#takeHeader(block);
        break;
    }
  }

  #takeHeader(block: Buffer): void {
    if (isZeroBlock(block)) {
      // An extended header may go before the end: it speaks of nothing then, as in Go.
      if (this.#afterZeroBlock) this.#state = END;
      this.#afterZeroBlock = true;
      return;
    }
    // Go's reader, and so every container runtime, refuses it; GNU tar goes on, and would show other files than they.
    if (this.#afterZeroBlock) throw this.#corrupt('a member behind a block of zeros, which is half an end');
    const header = this.#located(null, () => decodeHeader(block));
    switch (header.typeflag) {
      case 'x':
      case 'g':
      case 'L':
      case 'K':
        this.#startExtended(header.typeflag, header);
        break;
      case 'V':
        this.#skip(
          'a volume header',
          this.#located(header.path, () => nonNegative(header.sizeBytes)),
        );
        break;
      default:
        this.#startMember(header, block);
        break;
    }
  }

  #startExtended(typeflag: ExtendedTypeflag, header: TarHeader): void {
    const size = this.#located(header.path, () => nonNegative(header.sizeBytes));
    if (size > MAX_EXTENDED_HEADER_BYTES) {
      throw new FormatError(
        'ERR_LIMIT',
        `tar archive, at byte ${this.#blockOffset}: an extended header of ${size} bytes, at most ${MAX_EXTENDED_HEADER_BYTES} are read`,
      );
    }
    const body = Buffer.allocUnsafe(size);
    if (size === 0) this.#takeExtended(typeflag, body);
    else this.#state = { kind: 'extended', typeflag, body, filled: 0 };
  }

  #takeExtended(typeflag: ExtendedTypeflag, body: Buffer): void {
    this.#located(null, () => this.#extended.add(typeflag, body));
    this.#pad(paddingOf(body.length));
  }

  #startMember(header: TarHeader, block: Buffer): void {
    this.#headerOffset = this.#blockOffset;
    const extensions = this.#extended.takeForMember();
    const member = this.#located(header.path, () => memberOf(header, extensions));
    const { entry, archivedBytes, content } = member;
    switch (content.kind) {
      case 'plain':
        this.#begin(entry, archivedBytes === 0 ? [] : [0, archivedBytes], archivedBytes);
        break;
      case 'sparse':
        this.#beginSparse(entry, content.extents, archivedBytes, archivedBytes);
        break;
      case 'map-then-data':
        this.#state = { kind: 'pax-map', member, map: new SparseMapReader(), mapBytes: 0 };
        break;
      case 'old-gnu-sparse':
        this.#startOldGnuSparse(member, header, block);
        break;
      case 'skipped':
        this.#handler.entry(entry);
        this.#handler.end(entry);
        this.#skip(`the data of ${toDisplay(entry.path)}`, archivedBytes);
        break;
    }
  }

  #startOldGnuSparse(member: TarMember, header: TarHeader, block: Buffer): void {
    const extents: number[] = [];
    const entry = this.#located(header.path, () => {
      if (header.dialect !== 'gnu') {
        throw new FormatError('ERR_UNSUPPORTED', `a sparse file (type S) in a ${header.dialect} header`);
      }
      readOldGnuExtents(block, 386, 4, extents);
      return { ...member.entry, size: readOldGnuSize(block) };
    });
    if (block[482] === 0) this.#beginSparse(entry, extents, member.archivedBytes, member.archivedBytes);
    else this.#state = { kind: 'old-gnu-map', member: { ...member, entry }, extents };
  }

  #takeOldGnuMap({ member, extents }: State & { kind: 'old-gnu-map' }, block: Buffer): void {
    this.#located(member.entry.path, () => readOldGnuExtents(block, 0, 21, extents));
    if (block[504] === 0) {
      this.#beginSparse(member.entry, extents, member.archivedBytes, member.archivedBytes);
    }
  }

  #takePaxMap(state: State & { kind: 'pax-map' }, block: Buffer): void {
    const { entry, archivedBytes } = state.member;
    state.mapBytes += TAR_BLOCK_BYTES;
    const extents = this.#located(entry.path, () => {
      if (state.mapBytes > archivedBytes) {
        throw new FormatError('ERR_TAR_CORRUPT', 'its sparse map does not end inside its data');
      }
      return state.map.push(block);
    });
    if (extents !== null) this.#beginSparse(entry, extents, archivedBytes - state.mapBytes, archivedBytes);
  }

  #beginSparse(entry: TarEntry, extents: SparseExtents, dataBytes: number, archivedBytes: number): void {
    this.#located(entry.path, () => checkExtents(extents, entry.size, dataBytes));
    this.#begin(entry, extents, archivedBytes);
  }

  #begin(entry: TarEntry, extents: SparseExtents, archivedBytes: number): void {
    if (entry.size > MAX_FILE_BYTES) {
      throw new FormatError(
        'ERR_LIMIT',
        `tar archive, at byte ${this.#headerOffset}, ${toDisplay(entry.path)}: a file of ${entry.size} bytes, at most ${MAX_FILE_BYTES} are taken`,
      );
    }
    this.#handler.entry(entry);
    this.#extents = extents;
    this.#nextExtent = 0;
    this.#filePosition = 0;
    this.#nextPiece(entry, paddingOf(archivedBytes));
  }

  /** Goes on to the next piece of the current file that has data in the archive, or ends the file. */
  #nextPiece(entry: TarEntry, paddingBytes: number): void {
    while (this.#nextExtent < this.#extents.length) {
      const offset = this.#extents[this.#nextExtent]!;
      const length = this.#extents[this.#nextExtent + 1]!;
      this.#nextExtent += 2;
      if (length === 0) continue;
      this.#holeUntil(offset);
      this.#pieceLeft = length;
      this.#state = { kind: 'data', entry, paddingBytes };
      return;
    }
    this.#holeUntil(entry.size);
    this.#handler.end(entry);
    this.#pad(paddingBytes);
  }

  #holeUntil(offset: number): void {
    if (offset > this.#filePosition) this.#handler.hole(offset - this.#filePosition);
    this.#filePosition = offset;
  }

  #skip(what: string, sizeBytes: number): void {
    if (sizeBytes === 0) this.#state = HEADER;
    else this.#state = { kind: 'skip', what, left: sizeBytes, paddingBytes: paddingOf(sizeBytes) };
  }

  #pad(paddingBytes: number): void {
    this.#state = paddingBytes === 0 ? HEADER : { kind: 'padding', left: paddingBytes };
  }

  #corrupt(message: string): FormatError {
    return new FormatError('ERR_TAR_CORRUPT', `tar archive, at byte ${this.#blockOffset}: ${message}`);
  }

  /** Adds to a FormatError where in the archive it is and of which entry. */
  #located<T>(path: ByteString | null, decode: () => T): T {
    try {
      return decode();
    } catch (cause) {
      if (!(cause instanceof FormatError)) throw cause;
      const where = path === null ? '' : `, ${toDisplay(path)}`;
      throw new FormatError(
        cause.code,
        `tar archive, at byte ${this.#blockOffset}${where}: ${cause.message}`,
        {
          cause,
        },
      );
    }
  }
}

function paddingOf(sizeBytes: number): number {
  return (TAR_BLOCK_BYTES - (sizeBytes % TAR_BLOCK_BYTES)) % TAR_BLOCK_BYTES;
}

function nonNegative(sizeBytes: number): number {
  if (sizeBytes < 0) throw new FormatError('ERR_TAR_CORRUPT', `its size is negative: ${sizeBytes}`);
  return sizeBytes;
}

import type { ByteSource } from './byte-source.ts';
import { FormatError } from './errors.ts';
import {
  decodeLsmtHeader,
  hasLsmtMagic,
  INDEX_ENTRY_BYTES,
  LSMT_HEADER_BYTES,
  type LsmtHeader,
  MAX_LAYER_SEGMENTS,
} from './lsmt-header.ts';
import { decodeIndex, INDEX_PADDING_ENTRIES } from './lsmt-index.ts';
import type { SegmentTable } from './segments.ts';

/** A finished LSMT file: what one layer changes on the device. */
export class LsmtLayer {
  /** The whole LSMT file; it stays its opener's to close. */
  readonly source: ByteSource;
  /** Sorted; data offsets are sectors of `source`. */
  readonly segments: SegmentTable;
  readonly uuid: string;
  readonly parentUuid: string;
  /** Bytes of the device as this layer sees it. 0: as the layers below say. */
  readonly virtualSize: number;
  readonly userTag: string;

  private constructor(source: ByteSource, trailer: LsmtHeader, segments: SegmentTable) {
    this.source = source;
    this.segments = segments;
    this.uuid = trailer.uuid;
    this.parentUuid = trailer.parentUuid;
    this.virtualSize = trailer.virtualSize;
    this.userTag = trailer.userTag;
  }

  /**
   * Reads header, trailer and index of the LSMT file that `source` is from its first to its last byte.
   * @throws FormatError ERR_LSMT_CORRUPT, ERR_LIMIT, ERR_UNSUPPORTED for a layer that is still writable; SourceError
   */
  static async open(source: ByteSource, signal?: AbortSignal): Promise<LsmtLayer> {
    const trailer = await readTrailer(source, signal);
    const index = Buffer.allocUnsafe(checkedIndexBytes(source.size, trailer));
    await source.read(trailer.indexOffset, index, signal);
    return new LsmtLayer(source, trailer, decodeIndex(index, trailer.indexOffset));
  }
}

async function readTrailer(source: ByteSource, signal: AbortSignal | undefined): Promise<LsmtHeader> {
  if (source.size < LSMT_HEADER_BYTES) throw corrupt(`${source.size} bytes are too few`);
  const bytes = Buffer.alloc(LSMT_HEADER_BYTES);
  await source.read(0, bytes, signal);
  const header = decodeLsmtHeader(bytes);
  if (!header.isHeader) throw corrupt('it does not begin with a header');
  if (!header.isDataFile) {
    throw new FormatError(
      'ERR_UNSUPPORTED',
      'this is the index of a writable layer; only finished layers are read',
    );
  }
  await source.read(source.size - LSMT_HEADER_BYTES, bytes, signal);
  if (!hasLsmtMagic(bytes) && !header.isSealed) {
    throw new FormatError('ERR_UNSUPPORTED', 'this layer is still writable; only finished layers are read');
  }
  const trailer = decodeLsmtHeader(bytes);
  if (trailer.isHeader || !trailer.isDataFile || !trailer.isSealed) throw corrupt('it has no trailer');
  return trailer;
}

/** Before anything is allocated by what the trailer says. */
function checkedIndexBytes(fileSize: number, trailer: LsmtHeader): number {
  const { indexOffset, indexEntries } = trailer;
  const indexBytes = indexEntries * INDEX_ENTRY_BYTES;
  if (indexOffset < LSMT_HEADER_BYTES || indexOffset + indexBytes > fileSize - LSMT_HEADER_BYTES) {
    throw corrupt(
      `an index of ${indexEntries} entries at ${indexOffset} is not inside its ${fileSize} bytes`,
    );
  }
  if (indexEntries > MAX_LAYER_SEGMENTS + INDEX_PADDING_ENTRIES) {
    throw new FormatError(
      'ERR_LIMIT',
      `LSMT: ${indexEntries} index entries are more than ${MAX_LAYER_SEGMENTS}`,
    );
  }
  return indexBytes;
}

function corrupt(what: string): FormatError {
  return new FormatError('ERR_LSMT_CORRUPT', `not a whole LSMT file: ${what}`);
}

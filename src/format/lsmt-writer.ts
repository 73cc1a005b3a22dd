import { encodeLsmtHeader, LSMT_HEADER_BYTES, type LsmtHeader } from './lsmt-header.ts';
import { encodeIndex } from './lsmt-index.ts';
import { SECTOR_BYTES, type SegmentTable } from './segments.ts';
import type { Sink } from './sink.ts';

export interface LsmtIdentity {
  /** 8-4-4-4-12 hexadecimal digits. */
  readonly uuid: string;
  /** Of the layer below; {@link NO_PARENT_UUID} if there is none. */
  readonly parentUuid: string;
  /** At most 255 bytes of UTF-8; empty if not given. */
  readonly userTag?: string;
}

export const NO_PARENT_UUID = '00000000-0000-0000-0000-000000000000';

/**
 * Writes a finished LSMT file, streaming: header, data in the order in which it comes, index, trailer. The
 * header gives a virtual size of 0, since that may not be known yet: readers go by the trailer.
 */
export class LsmtWriter {
  readonly #sink: Sink;
  readonly #identity: Pick<LsmtHeader, 'uuid' | 'parentUuid' | 'userTag'>;
  #sizeBytes = LSMT_HEADER_BYTES;
  #isFinished = false;

  /** @throws RangeError for an identity that the format cannot hold */
  constructor(sink: Sink, identity: LsmtIdentity) {
    this.#sink = sink;
    this.#identity = { ...identity, userTag: identity.userTag ?? '' };
    sink.write(this.#encode({ isHeader: true, indexOffset: 0, indexEntries: 0, virtualSize: 0 }));
  }

  /** Appends whole sectors and returns the sector of the file where they begin. */
  appendData(bytes: Buffer): number {
    if (this.#isFinished) throw new Error('LsmtWriter: data after finish');
    if (bytes.length % SECTOR_BYTES !== 0)
      throw new RangeError(`${bytes.length} bytes are not whole sectors`);
    const sector = this.#sizeBytes / SECTOR_BYTES;
    this.#sink.write(bytes);
    this.#sizeBytes += bytes.length;
    return sector;
  }

  /**
   * Writes index and trailer. `segments` is sorted and has no overlap; `virtualSize` is the device's, in bytes.
   * @throws RangeError for segments that are not as they should be; FormatError ERR_LIMIT for too many
   */
  finish({ segments, virtualSize }: { segments: SegmentTable; virtualSize: number }): void {
    if (this.#isFinished) throw new Error('LsmtWriter: finished twice');
    this.#isFinished = true;
    const indexOffset = this.#sizeBytes;
    const index = encodeIndex(segments, indexOffset / SECTOR_BYTES);
    this.#sink.write(index.bytes);
    this.#sink.write(
      this.#encode({ isHeader: false, indexOffset, indexEntries: index.entries, virtualSize }),
    );
  }

  #encode(what: Pick<LsmtHeader, 'isHeader' | 'indexOffset' | 'indexEntries' | 'virtualSize'>): Buffer {
    return encodeLsmtHeader({ ...this.#identity, ...what, isDataFile: true, isSealed: true });
  }
}

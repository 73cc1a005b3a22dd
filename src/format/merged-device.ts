import { type ByteSource, checkRange } from './byte-source.ts';
import type { LsmtLayer } from './lsmt-layer.ts';
import { findSegment, type MergedSegments, mergeSegments, SECTOR_BYTES } from './segments.ts';

/** A part of the device that is one hole, or contiguous in one layer. In bytes. */
export interface DeviceExtent {
  readonly offset: number;
  readonly length: number;
  /** No layer has data here; it reads as zeros. */
  readonly hole: boolean;
}

/** A {@link DeviceExtent} and where its bytes are. */
interface Piece extends DeviceExtent {
  readonly layer: number;
  /** Byte offset in the layer's LSMT file. */
  readonly sourceOffset: number;
}

/** A stack of layers as the one read-only disk that they describe. Closing it leaves the layers' sources open. */
export class MergedDevice implements ByteSource {
  /** The topmost virtual size that is not zero. */
  readonly size: number;
  readonly #sources: readonly ByteSource[];
  readonly #segments: MergedSegments;

  private constructor(size: number, sources: readonly ByteSource[], segments: MergedSegments) {
    this.size = size;
    this.#sources = sources;
    this.#segments = segments;
  }

  /** @throws RangeError for more than 255 layers */
  static open(layers: readonly LsmtLayer[] /* bottom first */): MergedDevice {
    const size = layers.findLast((layer) => layer.virtualSize > 0)?.virtualSize ?? 0;
    return new MergedDevice(
      size,
      layers.map((layer) => layer.source),
      mergeSegments(layers.map((layer) => layer.segments)),
    );
  }

  /** What is contiguous in a layer is one read of its source; the reads run in parallel. */
  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    checkRange('device', this.size, offset, target.length);
    const reads: Promise<void>[] = [];
    for (const piece of this.#pieces(offset, target.length)) {
      const part = target.subarray(piece.offset - offset, piece.offset - offset + piece.length);
      if (piece.hole) part.fill(0);
      else reads.push(this.#sources[piece.layer]!.read(piece.sourceOffset, part, signal));
    }
    // All must have ended, also when one fails: the caller may use the buffer again at once.
    for (const result of await Promise.allSettled(reads)) {
      if (result.status === 'rejected') throw result.reason;
    }
  }

  /**
   * The extents that make up `length` bytes from `offset` on, in order, without gaps.
   * @throws SourceError ERR_SOURCE_RANGE
   */
  *extents(offset: number, length: number): Generator<DeviceExtent, void, undefined> {
    checkRange('device', this.size, offset, length);
    for (const piece of this.#pieces(offset, length)) {
      yield { offset: piece.offset, length: piece.length, hole: piece.hole };
    }
  }

  async close(): Promise<void> {}

  *#pieces(offset: number, length: number): Generator<Piece, void, undefined> {
    const { lba, length: sectors, data, layer, count } = this.#segments;
    const end = offset + length;
    let at = offset;
    for (let i = findSegment(this.#segments, Math.floor(at / SECTOR_BYTES)); at < end && i < count; i++) {
      const start = lba[i]! * SECTOR_BYTES;
      if (start >= end) break;
      if (start > at) yield hole(at, start - at);
      const from = Math.max(at, start);
      const to = Math.min(end, start + sectors[i]! * SECTOR_BYTES);
      const sourceOffset = data[i]! * SECTOR_BYTES + from - start;
      yield { offset: from, length: to - from, hole: false, layer: layer[i]!, sourceOffset };
      at = to;
    }
    if (at < end) yield hole(at, end - at);
  }
}

function hole(offset: number, length: number): Piece {
  return { offset, length, hole: true, layer: 0, sourceOffset: 0 };
}

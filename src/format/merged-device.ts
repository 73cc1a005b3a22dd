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

/** Told of `length` bytes of the device from `at` on; layer {@link HOLE}: they are zeros. False ends the walk. */
type Visit = (layer: number, at: number, length: number, sourceOffset: number) => boolean;

const HOLE = -1;

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
    this.#walk(offset, target.length, (layer, at, length, sourceOffset) => {
      const part = target.subarray(at - offset, at - offset + length);
      if (layer === HOLE) part.fill(0);
      else reads.push(this.#sources[layer]!.read(sourceOffset, part, signal));
      return true;
    });
    // All must have ended, also when one fails: the caller may use the buffer again at once.
    for (const result of await Promise.allSettled(reads)) {
      if (result.status === 'rejected') throw result.reason;
    }
  }

  readNow(offset: number, target: Buffer): boolean {
    checkRange('device', this.size, offset, target.length);
    return this.#walk(offset, target.length, (layer, at, length, sourceOffset) => {
      const part = target.subarray(at - offset, at - offset + length);
      if (layer !== HOLE) return this.#sources[layer]!.readNow?.(sourceOffset, part) ?? false;
      part.fill(0);
      return true;
    });
  }

  /**
   * The extents that make up `length` bytes from `offset` on, in order, without gaps.
   * @throws SourceError ERR_SOURCE_RANGE
   */
  extents(offset: number, length: number): DeviceExtent[] {
    checkRange('device', this.size, offset, length);
    const extents: DeviceExtent[] = [];
    this.#walk(offset, length, (layer, at, bytes) => {
      extents.push({ offset: at, length: bytes, hole: layer === HOLE });
      return true;
    });
    return extents;
  }

  async close(): Promise<void> {}

  /** Visits what the range is made of, in order, without gaps. False if a visit ended it. */
  #walk(offset: number, length: number, visit: Visit): boolean {
    const { lba, length: sectors, data, layer, count } = this.#segments;
    const end = offset + length;
    let at = offset;
    for (let i = findSegment(this.#segments, Math.floor(at / SECTOR_BYTES)); at < end && i < count; i++) {
      const start = lba[i]! * SECTOR_BYTES;
      if (start >= end) break;
      if (start > at) {
        if (!visit(HOLE, at, start - at, 0)) return false;
        at = start;
      }
      const to = Math.min(end, start + sectors[i]! * SECTOR_BYTES);
      if (!visit(layer[i]!, at, to - at, data[i]! * SECTOR_BYTES + at - start)) return false;
      at = to;
    }
    return at >= end || visit(HOLE, at, end - at, 0);
  }
}

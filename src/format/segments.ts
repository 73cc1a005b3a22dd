/** Unit of all addresses and lengths in an LSMT layer. */
export const SECTOR_BYTES = 512;

/**
 * What one layer says about the device: `length[i]` sectors from device sector `lba[i]` on are zeros if
 * `zeroed[i]` is 1, else stand in the layer's file from sector `data[i]` on. Sorted by lba, without overlap.
 * What no segment covers shows the layers below.
 */
export interface SegmentTable {
  readonly count: number;
  readonly lba: Float64Array;
  readonly length: Uint16Array | Uint32Array;
  readonly data: Float64Array;
  readonly zeroed: Uint8Array;
}

/**
 * What a stack of layers says about the device: sectors that no segment covers are zeros, all others stand in
 * the file of layer `layer[i]` (0 is the bottom). Sorted by lba; no two neighbours could be one segment.
 */
export interface MergedSegments {
  readonly count: number;
  readonly lba: Float64Array;
  readonly length: Float64Array;
  readonly data: Float64Array;
  readonly layer: Uint8Array;
  /** Where to search: the device in stretches of `stretchSectors`, and the first segment that begins in it or behind. */
  readonly stretchSectors: number;
  readonly firstIn: Uint32Array;
}

/** Segments in a stretch, on average: few enough to lie in a cache line or two. */
const STRETCH_SEGMENTS = 4;

/** What a file system can stack; also what a layer number of 8 bits can hold. */
export const MAX_LAYERS = 255;

/**
 * Lays the tables over each other, bottom first: the topmost layer with a segment decides.
 * @throws RangeError for more than 255 tables
 */
export function mergeSegments(tables: readonly SegmentTable[]): MergedSegments {
  if (tables.length > MAX_LAYERS) throw new RangeError(`${tables.length} layers are more than ${MAX_LAYERS}`);
  // Halving keeps the work at (all segments) * log2(layers).
  const merge = (from: number, to: number): Pieces => {
    if (to - from === 1) return Pieces.ofLayer(tables[from]!, from);
    const middle = (from + to) >> 1;
    return overlay(merge(from, middle), merge(middle, to));
  };
  const merged = tables.length === 0 ? new Pieces(0) : merge(0, tables.length);
  return merged.withoutZeroed();
}

/** The index of the segment that covers `sector`, or of the next one above it; `count` if there is none. */
export function findSegment(segments: MergedSegments, sector: number): number {
  const { lba, firstIn } = segments;
  const stretch = Math.floor(sector / segments.stretchSectors);
  if (stretch + 1 >= firstIn.length) return segments.count;
  let low = firstIn[stretch]!;
  let high = firstIn[stretch + 1]!;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (lba[middle]! <= sector) low = middle + 1;
    else high = middle;
  }
  const below = low - 1;
  return below >= 0 && lba[below]! + segments.length[below]! > sector ? below : low;
}

/** In the column `layer`: zeros, from whatever layer. */
const ZEROED = 255;

/** Segments of several layers under construction. */
class Pieces {
  count = 0;
  readonly lba: Float64Array;
  readonly length: Float64Array;
  readonly data: Float64Array;
  readonly layer: Uint8Array;

  constructor(capacity: number) {
    this.lba = new Float64Array(capacity);
    this.length = new Float64Array(capacity);
    this.data = new Float64Array(capacity);
    this.layer = new Uint8Array(capacity);
  }

  static ofLayer(table: SegmentTable, layer: number): Pieces {
    const pieces = new Pieces(table.count);
    for (let i = 0; i < table.count; i++) {
      pieces.add(table.lba[i]!, table.length[i]!, table.data[i]!, table.zeroed[i] === 1 ? ZEROED : layer);
    }
    return pieces;
  }

  /** Appends a segment, or makes the last one longer if the two are contiguous. */
  add(lba: number, length: number, data: number, layer: number): void {
    const last = this.count - 1;
    if (last >= 0 && this.layer[last] === layer && this.lba[last]! + this.length[last]! === lba) {
      if (this.data[last]! + this.length[last]! === data) {
        this.length[last]! += length;
        return;
      }
    }
    this.lba[this.count] = lba;
    this.length[this.count] = length;
    this.data[this.count] = data;
    this.layer[this.count] = layer;
    this.count++;
  }

  end(i: number): number {
    return this.lba[i]! + this.length[i]!;
  }

  withoutZeroed(): MergedSegments {
    let kept = 0;
    for (let i = 0; i < this.count; i++) if (this.layer[i] !== ZEROED) kept++;
    const result = new Pieces(kept);
    for (let i = 0; i < this.count; i++) {
      const layer = this.layer[i]!;
      if (layer !== ZEROED) result.add(this.lba[i]!, this.length[i]!, this.data[i]!, layer);
    }
    return result.withStretches();
  }

  withStretches(): MergedSegments {
    const { count, lba, length, data, layer } = this;
    const sectors = count === 0 ? 0 : this.end(count - 1);
    const stretches = Math.max(1, Math.ceil(count / STRETCH_SEGMENTS));
    const stretchSectors = Math.max(1, Math.ceil(sectors / stretches));
    const firstIn = new Uint32Array(Math.ceil(sectors / stretchSectors) + 1);
    let first = 0;
    for (let stretch = 0; stretch < firstIn.length; stretch++) {
      while (first < count && lba[first]! < stretch * stretchSectors) first++;
      firstIn[stretch] = first;
    }
    return { count, lba, length, data, layer, stretchSectors, firstIn };
  }
}

/** `upper` whole, and of `lower` what it leaves uncovered. */
function overlay(lower: Pieces, upper: Pieces): Pieces {
  // Each upper segment can cut one lower segment in two.
  const result = new Pieces(lower.count + 2 * upper.count);
  let low = 0;
  /** What is before it, of the lower segments, has been dealt with. */
  let position = 0;
  const addLowerUpTo = (limit: number): void => {
    while (low < lower.count && lower.lba[low]! < limit) {
      const end = lower.end(low);
      const from = Math.max(position, lower.lba[low]!);
      const to = Math.min(end, limit);
      if (from < to)
        result.add(from, to - from, lower.data[low]! + from - lower.lba[low]!, lower.layer[low]!);
      if (end > limit) return;
      low++;
    }
  };
  for (let up = 0; up < upper.count; up++) {
    addLowerUpTo(upper.lba[up]!);
    result.add(upper.lba[up]!, upper.length[up]!, upper.data[up]!, upper.layer[up]!);
    position = upper.end(up);
  }
  addLowerUpTo(Number.POSITIVE_INFINITY);
  return result;
}

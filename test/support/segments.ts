import fc from 'fast-check';
import type { SegmentTable } from '../../src/format/segments.ts';

/** lba, length, data (sectors), zeroed. */
export type SegmentRow = readonly [lba: number, length: number, data: number, zeroed: boolean];

export function segmentTable(rows: readonly SegmentRow[]): SegmentTable {
  return {
    count: rows.length,
    lba: Float64Array.from(rows, (row) => row[0]),
    length: Uint32Array.from(rows, (row) => row[1]),
    data: Float64Array.from(rows, (row) => row[2]),
    zeroed: Uint8Array.from(rows, (row) => (row[3] ? 1 : 0)),
  };
}

/**
 * Any layer of a device of that many sectors: sorted segments with gaps or none between them, their data in
 * the layer's file in any order, often contiguous.
 */
export function anySegments(deviceSectors: number): fc.Arbitrary<SegmentRow[]> {
  const piece = fc.record({
    gap: fc.oneof(fc.constant(0), fc.nat(9)),
    length: fc.integer({ min: 1, max: 12 }),
    zeroed: fc.boolean(),
    jump: fc.oneof(fc.constant(0), fc.nat(5)),
  });
  return fc.array(piece, { maxLength: 20 }).map((pieces) => {
    const rows: SegmentRow[] = [];
    let lba = 0;
    let data = 8;
    for (const { gap, length, zeroed, jump } of pieces) {
      lba += gap;
      data += jump;
      if (lba + length > deviceSectors) break;
      rows.push([lba, length, data, zeroed]);
      lba += length;
      if (!zeroed) data += length;
    }
    return rows;
  });
}

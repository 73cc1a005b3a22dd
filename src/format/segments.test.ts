import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { anySegments, type SegmentRow, segmentTable } from '../../test/support/segments.ts';
import { findSegment, type MergedSegments, mergeSegments } from './segments.ts';

const DEVICE_SECTORS = 100;

/** For each sector of the device, the layer and the sector of its file that a read gets, or null for zeros. */
function model(layers: readonly (readonly SegmentRow[])[]): ([layer: number, data: number] | null)[] {
  const device: ([number, number] | null)[] = Array.from({ length: DEVICE_SECTORS }, () => null);
  for (const [layer, rows] of layers.entries()) {
    for (const [lba, length, data, zeroed] of rows) {
      for (let i = 0; i < length; i++) device[lba + i] = zeroed ? null : [layer, data + i];
    }
  }
  return device;
}

function merge(layers: readonly (readonly SegmentRow[])[]): MergedSegments {
  return mergeSegments(layers.map(segmentTable));
}

function rows(merged: MergedSegments): number[][] {
  return Array.from({ length: merged.count }, (_, i) => [
    merged.lba[i]!,
    merged.length[i]!,
    merged.data[i]!,
    merged.layer[i]!,
  ]);
}

const anyStack = fc.array(anySegments(DEVICE_SECTORS), { maxLength: 9 });

describe('merged segments', () => {
  test('say of each sector what the topmost layer with a segment says', () => {
    fc.assert(
      fc.property(anyStack, (layers) => {
        const merged = merge(layers);
        const device: ([number, number] | null)[] = Array.from({ length: DEVICE_SECTORS }, () => null);
        for (const [lba, length, data, layer] of rows(merged) as [number, number, number, number][]) {
          for (let i = 0; i < length; i++) device[lba + i] = [layer, data + i];
        }
        expect(device).toEqual(model(layers));
      }),
      { numRuns: 1000 },
    );
  });

  test('are sorted, without overlap, and no two neighbours could be one', () => {
    fc.assert(
      fc.property(anyStack, (layers) => {
        const list = rows(merge(layers)) as [number, number, number, number][];
        for (const [i, [lba, length, data, layer]] of list.entries()) {
          expect(length).toBeGreaterThan(0);
          const next = list[i + 1];
          if (next === undefined) continue;
          expect(next[0]).toBeGreaterThanOrEqual(lba + length);
          expect(next[0] === lba + length && next[2] === data + length && next[3] === layer).toBe(false);
        }
      }),
      { numRuns: 300 },
    );
  });

  test('become longer than an entry on disk can be', () => {
    const long: SegmentRow[] = [
      [0, 16_382, 8, false],
      [16_382, 16_382, 16_390, false],
    ];
    expect(rows(merge([long]))).toEqual([[0, 32_764, 8, 0]]);
  });

  test('of 255 layers number each of them', () => {
    const layers = Array.from({ length: 255 }, (_, i): SegmentRow[] => [[i, 1, 8 + i, false]]);
    expect(rows(merge(layers))).toEqual(layers.map((_, i) => [i, 1, 8 + i, i]));
    expect(() => merge([...layers, []])).toThrowError(RangeError);
  });

  test('of no layers, and of layers that only hide, are none', () => {
    expect(merge([]).count).toBe(0);
    expect(merge([[[3, 4, 8, false]], [[0, 100, 8, true]]]).count).toBe(0);
  });

  test('keep addresses beyond 2^32 exact', () => {
    const at = 2 ** 49 + 1;
    const layers: SegmentRow[][] = [[[at, 10, 2 ** 40, false]], [[at + 3, 1, 2 ** 54, false]]];
    expect(rows(merge(layers))).toEqual([
      [at, 3, 2 ** 40, 0],
      [at + 3, 1, 2 ** 54, 1],
      [at + 4, 6, 2 ** 40 + 4, 0],
    ]);
  });
});

test('a look-up finds the segment that covers a sector, else the next above it', () => {
  fc.assert(
    fc.property(anyStack, fc.nat(DEVICE_SECTORS), (layers, sector) => {
      const merged = merge(layers);
      const list = rows(merged) as [number, number, number, number][];
      const expected = list.findIndex(([lba, length]) => lba + length > sector);
      expect(findSegment(merged, sector)).toBe(expected < 0 ? merged.count : expected);
    }),
    { numRuns: 1000 },
  );
});

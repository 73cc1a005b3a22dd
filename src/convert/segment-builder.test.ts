import { expect, test } from 'vitest';
import { SegmentBuilder } from './segment-builder.ts';

test('runs that touch on the device and in the file become one entry', () => {
  const builder = new SegmentBuilder();
  builder.add(0, 8, 8);
  builder.add(8, 16, 16);
  builder.add(24, 8, 40);
  const { count, lba, length, data } = builder.build();
  expect([count, [...lba], [...length], [...data]]).toEqual([2, [0, 24], [24, 8], [8, 40]]);
});

test('entries come out sorted by device address, those of another builder moved up', () => {
  const data = new SegmentBuilder();
  data.add(0, 8, 8);
  const all = new SegmentBuilder();
  all.add(800, 8, 24);
  all.add(0, 8, 32);
  all.addShifted(data, 400);
  expect([...all.build().lba]).toEqual([0, 400, 800]);
  expect([...all.build().data]).toEqual([32, 8, 24]);
});

test('a run longer than an entry can be is split at block boundaries', () => {
  const builder = new SegmentBuilder();
  builder.add(8, 40_000, 16);
  const { count, lba, length, data } = builder.build();
  expect(count).toBe(3);
  expect([...length].reduce((sum, value) => sum + value)).toBe(40_000);
  for (let i = 0; i < count; i++) {
    expect(length[i]! % 8).toBe(0);
    expect(length[i]).toBeLessThanOrEqual(16_382);
    expect(data[i]! - lba[i]!).toBe(8);
  }
});

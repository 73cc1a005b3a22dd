import { expect, test } from 'vitest';
import { RecentBytes } from './recent-bytes.ts';

const ALL = Buffer.from(Array.from({ length: 100 }, (_, index) => index));

function filled(maxBytes: number, ...lengths: number[][]): RecentBytes {
  const recent = new RecentBytes(maxBytes);
  let offset = 0;
  for (const batch of lengths) {
    recent.add(
      batch.map((length) => {
        offset += length;
        return ALL.subarray(offset - length, offset);
      }),
    );
  }
  return recent;
}

test('any part of what is there can be copied, across pieces', () => {
  const recent = filled(1000, [3, 7], [1, 20], [69]);
  expect(recent.start).toBe(0);
  for (let start = 0; start < 100; start += 7) {
    for (let end = start; end <= 100; end += 9) {
      const target = Buffer.alloc(end - start, 255);
      recent.copy(start, target);
      expect(target).toEqual(ALL.subarray(start, end));
    }
  }
});

test('the oldest go, the latest batch stays whole', () => {
  expect(filled(30, [10], [10], [10]).start).toBe(0);
  expect(filled(30, [10], [10], [15]).start).toBe(10);
  const large = filled(30, [10], [10], [20, 25]);
  expect(large.start).toBe(20);
  const target = Buffer.alloc(45);
  large.copy(20, target);
  expect(target).toEqual(ALL.subarray(20, 65));
});

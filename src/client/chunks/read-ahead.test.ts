import { expect, test } from 'vitest';
import { seededRandom } from '../../../test/support/seeded-random.ts';
import { ReadAhead } from './read-ahead.ts';

/** The chunks that are fetched ahead of reads of single chunks. */
function fetchedAhead(ahead: ReadAhead, chunks: readonly number[]): number[][] {
  return chunks.map((chunk) => {
    const range = ahead.next(chunk, chunk);
    return range === null ? [] : [range.first, range.last];
  });
}

test('a walk forward is followed from its fourth chunk on, ever further, in ever larger pieces', () => {
  const ahead = new ReadAhead(8);
  expect(fetchedAhead(ahead, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])).toEqual([
    ...[[], [], [], [9, 9], [10, 11], [12, 14], [15, 19], [], [], [], [20, 23], []],
  ]);
});

test('several reads of one chunk are no steps, nor is one read of many chunks', () => {
  const ahead = new ReadAhead(8);
  expect(fetchedAhead(ahead, [1, 1, 1, 1, 2, 2, 2, 3, 3, 3]).flat()).toEqual([]);
  expect(ahead.next(20, 60)).toBeNull();
});

test('walks through several files at once are each followed', () => {
  const ahead = new ReadAhead(4);
  const chunks = [0, 1, 2, 3].flatMap((step) => [100, 200, 300].map((start) => start + step));
  expect(fetchedAhead(ahead, chunks).slice(-3)).toEqual([
    [104, 104],
    [204, 204],
    [304, 304],
  ]);
});

test('reads that jump cause next to nothing, even in a small blob', () => {
  for (const chunks of [50, 400, 4000]) {
    const ahead = new ReadAhead(16);
    const random = seededRandom(chunks);
    let fetched = 0;
    for (let i = 0; i < 10_000; i++) {
      const chunk = random(chunks);
      const range = ahead.next(chunk, chunk);
      if (range !== null) fetched += range.last - range.first + 1;
    }
    expect(fetched).toBeLessThan(10_000 / chunks);
  }
});

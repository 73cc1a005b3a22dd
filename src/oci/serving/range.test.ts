import { expect, test } from 'vitest';
import { decideRange } from './range.ts';

const ETAG = '"sha256:aa"';
const SIZE = 3000;
const part = (start: number, end: number) => ({ kind: 'part', range: { start, end } });

test.each([
  ['bytes=0-0', part(0, 1)],
  ['bytes=500-1499', part(500, 1500)],
  ['bytes=500-', part(500, 3000)],
  ['bytes=-500', part(2500, 3000)],
  ['bytes=-5000', part(0, 3000)],
  ['bytes=2000-5000', part(2000, 3000)],
  ['Bytes = 1-2', part(1, 3)],
])('%s is answered by that part', (header, decision) => {
  expect(decideRange(header, undefined, ETAG, SIZE)).toEqual(decision);
});

test.each(['bytes=500-0', 'bytes=5000-10000', 'bytes=3000-', 'bytes=-0'])(
  '%s cannot be satisfied',
  (header) => {
    expect(decideRange(header, undefined, ETAG, SIZE)).toEqual({ kind: 'unsatisfiable' });
  },
);

test.each([undefined, 'bytes=0-1,5-6', 'items=0-1', 'bytes=-', 'bytes=a-b', 'bytes', 'bytes=1-2x'])(
  '%s gets the whole',
  (header) => {
    expect(decideRange(header, undefined, ETAG, SIZE)).toEqual({ kind: 'whole' });
  },
);

test('a part of another version than the client has is not sent', () => {
  expect(decideRange('bytes=0-9', ETAG, ETAG, SIZE)).toEqual(part(0, 10));
  expect(decideRange('bytes=0-9', '"sha256:bb"', ETAG, SIZE)).toEqual({ kind: 'whole' });
  expect(decideRange('bytes=0-9', 'Wed, 21 Oct 2015 07:28:00 GMT', ETAG, SIZE)).toEqual({ kind: 'whole' });
});

test('nothing is a part of an empty blob', () => {
  expect(decideRange('bytes=0-', undefined, ETAG, 0)).toEqual({ kind: 'unsatisfiable' });
  expect(decideRange('bytes=-1', undefined, ETAG, 0)).toEqual({ kind: 'unsatisfiable' });
});

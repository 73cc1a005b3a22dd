import { beforeEach, expect, test } from 'vitest';
import { Complaints, SUSPECT_MS } from './complaints.ts';

let complaints: Complaints;
beforeEach(() => {
  complaints = new Complaints();
});

test('two that complain within a minute make a suspect, one that complains twice does not', () => {
  expect(complaints.add('a', 'x', 0)).toEqual([]);
  expect(complaints.add('a', 'x', 1000)).toEqual([]);
  expect(complaints.add('b', 'x', SUSPECT_MS - 1)).toEqual(['x']);
  expect(complaints.isSuspected('x')).toBe(true);
});

test('a complaint that is a minute old counts no more', () => {
  complaints.add('a', 'x', 0);
  expect(complaints.add('b', 'x', SUSPECT_MS)).toEqual([]);
});

test('suspicion ends a minute after the last complaint, and all is forgotten then', () => {
  complaints.add('a', 'x', 0);
  complaints.add('b', 'x', 0);
  expect(complaints.add('c', 'x', 10)).toEqual([]);
  expect(complaints.cleared(SUSPECT_MS)).toEqual([]);
  expect(complaints.cleared(SUSPECT_MS + 10)).toEqual(['x']);
  expect(complaints.isSuspected('x')).toBe(false);
  expect(complaints.add('d', 'x', SUSPECT_MS + 11)).toEqual([]);
});

test('what suspects say about others counts for nothing', () => {
  complaints.add('a', 'x', 0);
  complaints.add('b', 'x', 0);
  expect(complaints.add('x', 'y', 1)).toEqual([]);
  expect(complaints.add('a', 'y', 2)).toEqual([]);
});

test('who complains about four is a suspect itself', () => {
  for (const accused of ['p', 'q', 'r']) expect(complaints.add('a', accused, 0)).toEqual([]);
  expect(complaints.add('a', 's', 1)).toEqual(['a']);
  expect(complaints.add('b', 's', 2)).toEqual([]);
});

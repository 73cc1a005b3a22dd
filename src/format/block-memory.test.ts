import { expect, test } from 'vitest';
import { BlockMemory } from './block-memory.ts';

const block = (value: number, length = 4096): Buffer => Buffer.alloc(length, value);

test('a block comes back as it was, whatever becomes of the buffer it came in', () => {
  const memory = new BlockMemory(10 * 4096);
  const bytes = block(1);
  memory.keep(memory.newFile(), bytes);
  bytes.fill(2);
  expect(memory.get(0)).toEqual(block(1));
});

test('files do not see each other’s blocks', () => {
  const memory = new BlockMemory(10 * 4096);
  const [one, other] = [memory.newFile(), memory.newFile()];
  memory.keep(one + 7, block(1));
  expect(memory.get(other + 7)).toBeUndefined();
});

test('at the bound the least recently used block goes, also for blocks of other lengths', () => {
  const memory = new BlockMemory(3 * 4096);
  for (const key of [0, 1, 2]) memory.keep(key, block(key));
  memory.get(0);
  memory.keep(3, block(3));
  expect([0, 1, 2, 3].filter((key) => memory.get(key) !== undefined)).toEqual([0, 2, 3]);
  memory.keep(4, block(4, 8192));
  expect([0, 2, 3, 4].filter((key) => memory.get(key) !== undefined)).toEqual([3, 4]);
  expect(memory.get(4)).toEqual(block(4, 8192));
  expect(memory.get(3)).toEqual(block(3));
  memory.keep(5, block(5, 4 * 4096));
  expect(memory.get(5)).toBeUndefined();
});

test('what nobody used between two calls of forgetUnused is forgotten', () => {
  const memory = new BlockMemory(3 * 4096);
  memory.keep(0, block(1));
  memory.forgetUnused();
  expect(memory.get(0)).toBeDefined();
  memory.forgetUnused();
  memory.forgetUnused();
  expect(memory.get(0)).toBeUndefined();
});

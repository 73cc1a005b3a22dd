import { expect, test } from 'vitest';
import { readAll, SpySource } from '../../test/support/byte-sources.ts';
import { SliceSource } from './slice-source.ts';

const bytes = Buffer.from('0123456789');

test('a slice reads the bytes of its part', async () => {
  const source = new SpySource(bytes);
  const slice = new SliceSource(source, 3, 5);
  expect((await readAll(slice)).toString()).toBe('34567');
  const target = Buffer.alloc(2);
  await slice.read(3, target);
  expect(target.toString()).toBe('67');
  expect(source.reads).toEqual([
    [3, 5],
    [6, 2],
  ]);
});

test('a slice does not read beyond its part, although the source goes on', async () => {
  const slice = new SliceSource(new SpySource(bytes), 3, 5);
  await expect(slice.read(4, Buffer.alloc(2))).rejects.toMatchObject({ code: 'ERR_SOURCE_RANGE' });
  await expect(slice.read(-1, Buffer.alloc(1))).rejects.toMatchObject({ code: 'ERR_SOURCE_RANGE' });
});

test('a slice that is not inside its source cannot be made', () => {
  expect(() => new SliceSource(new SpySource(bytes), 6, 5)).toThrowError(
    expect.objectContaining({ code: 'ERR_SOURCE_RANGE' }),
  );
});

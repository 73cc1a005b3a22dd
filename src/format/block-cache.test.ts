import { describe, expect, it } from 'vitest';
import { SpySource } from '../../test/support/byte-sources.ts';
import { BlockCache } from './block-cache.ts';

function cacheOf(text: string, capacityBlocks: number): { cache: BlockCache; source: SpySource } {
  const source = new SpySource(Buffer.from(text));
  return { cache: new BlockCache(source, { blockBytes: 4, capacityBlocks }), source };
}

describe('a block cache', () => {
  it('reads a block once', async () => {
    const { cache, source } = cacheOf('aaaabbbbcccc', 2);
    expect((await cache.block(1)).toString()).toBe('bbbb');
    expect((await cache.bytes(5, 2)).toString()).toBe('bb');
    expect(source.reads).toEqual([[4, 4]]);
  });

  it('forgets the block that was not used for longest', async () => {
    const { cache, source } = cacheOf('aaaabbbbcccc', 2);
    for (const block of [0, 1, 0, 2, 0, 1]) await cache.block(block);
    expect(source.reads.map(([offset]) => offset / 4)).toEqual([0, 1, 2, 1]);
  });

  it('reads ever longer pieces for who goes on, up to a quarter of what it keeps', async () => {
    const { cache, source } = cacheOf('0123'.repeat(50), 32);
    for (let block = 0; block < 50; block++) await cache.block(block);
    expect(source.reads.map(([offset, length]) => [offset / 4, length / 4])).toEqual([
      [0, 1],
      [1, 2],
      [3, 4],
      [7, 8],
      [15, 8],
      [23, 8],
      [31, 8],
      [39, 8],
      [47, 3],
    ]);
    expect((await cache.block(48)).toString()).toBe('0123');
  });

  it('reads one block for who jumps, but goes on over small gaps', async () => {
    const { cache, source } = cacheOf('0123'.repeat(90), 32);
    for (const block of [0, 20, 10, 80, 81, 84, 50]) await cache.block(block);
    expect(source.reads.map(([offset, length]) => [offset / 4, length / 4])).toEqual([
      [0, 1],
      [20, 1],
      [10, 1],
      [80, 1],
      [81, 2],
      [84, 4],
      [50, 1],
    ]);
  });

  it('puts bytes of several blocks together', async () => {
    const { cache } = cacheOf('aaaabbbbcccc', 1);
    expect((await cache.bytes(3, 6)).toString()).toBe('abbbbc');
  });
});

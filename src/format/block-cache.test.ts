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

  it('puts bytes of several blocks together', async () => {
    const { cache } = cacheOf('aaaabbbbcccc', 1);
    expect((await cache.bytes(3, 6)).toString()).toBe('abbbbc');
  });
});

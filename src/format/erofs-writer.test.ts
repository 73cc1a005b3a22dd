import { beforeAll, describe, expect, it } from 'vitest';
import { attributes, LayerDraft, type StackedLayer } from '../../test/support/erofs-device.ts';
import { names, nidOf, seen } from '../../test/support/tree-snapshot.ts';
import { ErofsReader } from './erofs-reader.ts';
import { buildErofsLayer } from './erofs-writer.ts';

function big(bytes: number): { xattrs: Map<string, Buffer> } {
  return { xattrs: new Map([['trusted.big', Buffer.alloc(bytes, 'b')]]) };
}

describe('the bottom layer', () => {
  it('has a plain root where the archive does not list one', async () => {
    const { device } = await new LayerDraft().file('a', 'x').on(null);
    expect(await seen(device, '')).toMatchObject({ mode: 0o755, uid: 0, gid: 0, mtime: [0, 0], nlink: 2 });
  });

  it('takes the attributes of the root from the archive', async () => {
    const { device } = await new LayerDraft()
      .directory('', {
        mode: 0o1711,
        uid: 5,
        mtimeSeconds: -3,
        xattrs: new Map([['user.a', Buffer.from('v')]]),
      })
      .on(null);
    expect(await seen(device, '')).toMatchObject({
      mode: 0o1711,
      uid: 5,
      mtime: [-3, 0],
      xattrs: [['user.a', '76']],
    });
  });

  it('makes directories that the archive leaves out', async () => {
    const { device } = await new LayerDraft().file('a/b/c', 'x').on(null);
    expect(await seen(device, 'a')).toMatchObject({
      type: 'directory',
      mode: 0o755,
      mtime: [0, 0],
      nlink: 3,
    });
    expect(await names(device)).toEqual(['a', 'a/b', 'a/b/c']);
  });

  it('has the uuid it was given', async () => {
    const uuid = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');
    const { device } = await new LayerDraft().on(null, uuid);
    expect((await ErofsReader.open(device)).superblock.uuid).toEqual(uuid);
  });

  it('takes the last of several entries with one path', async () => {
    const { device } = await new LayerDraft()
      .file('a', 'first')
      .directory('a')
      .file('a/b', 'x')
      .symlink('a', 'b')
      .file('c', 'x')
      .file('c', 'last', { uid: 9 })
      .on(null);
    expect(await names(device)).toEqual(['a', 'c']);
    expect(await seen(device, 'a')).toMatchObject({ type: 'symlink', content: 'b' });
    expect(await seen(device, 'c')).toMatchObject({ uid: 9 });
  });

  it('puts a symbolic link into a block where it does not fit behind its inode and xattrs', async () => {
    const { device } = await new LayerDraft()
      .symlink('a', 'x'.repeat(4000), big(100))
      .symlink('b', 'y'.repeat(4000))
      .on(null);
    expect(await seen(device, 'a')).toMatchObject({ content: 'x'.repeat(4000) });
    expect(await (await ErofsReader.open(device)).lookup('a')).toMatchObject({ layout: 'plain' });
    expect(await (await ErofsReader.open(device)).lookup('b')).toMatchObject({ layout: 'inline' });
  });

  it('is refused when it has more blocks than a block number can count', async () => {
    const input = { parent: null, entries: [], readTail: () => {}, uuid: Buffer.alloc(16) };
    const built = buildErofsLayer({ ...input, dataBlocks: 2 ** 32 - 1 }, () => {});
    await expect(built).rejects.toMatchObject({ code: 'ERR_LIMIT' });
  });

  it('packs small files behind their inodes, without a block for each', async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 1000; index++) draft.file(`d/${index}`, 'x'.repeat(100));
    expect((await draft.on(null)).totalBlocks).toBeLessThan(60);
  });

  it('keeps inodes and names apart from content: who lists all of it reads little', async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 2000; index++) draft.file(`d${index % 50}/${index}`, 'x'.repeat(3000));
    const { device } = await draft.on(null);
    let found = 0;
    for await (const _ of (await ErofsReader.open(device)).walk()) found++;
    expect(found).toBe(2051);
    const touched = new Set<number>();
    for (const [offset, length] of device.reads) {
      for (let at = offset - (offset % 4096); at < offset + length; at += 4096) touched.add(at);
    }
    expect(touched.size).toBeLessThan(device.size / 4096 / 30);
  });

  it('takes 200,000 entries of one directory in seconds', async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 200_000; index++) draft.file(`d/${index}`, '');
    const started = performance.now();
    const layer = await draft.on(null);
    expect(performance.now() - started).toBeLessThan(20_000);
    expect(layer.inodes).toBe(200_002);
  });
});

describe('a layer on others', () => {
  it('keeps an inode that gets new attributes in its place, and its children', async () => {
    const lower = await new LayerDraft()
      .directory('d', { mode: 0o700, mtimeSeconds: 5 })
      .file('d/a', 'x')
      .on(null);
    const layer = await new LayerDraft().directory('d', { mode: 0o711, uid: 3 }).on(lower.device);
    expect(await seen(layer.device, 'd')).toMatchObject({ mode: 0o711, uid: 3, mtime: [0, 0] });
    expect(await nidOf(layer.device, 'd')).toBe(await nidOf(lower.device, 'd'));
    expect(await names(layer.device)).toEqual(['d', 'd/a']);
    expect(layer.totalBlocks).toBe(lower.totalBlocks);
  });

  it('does not write blocks again that stay the same', async () => {
    const draft = new LayerDraft().directory('d', { mode: 0o700 }).file('d/a', 'x');
    const lower = await draft.on(null);
    const layer = await new LayerDraft().directory('d', { mode: 0o700 }).on(lower.device);
    expect(layer.emitted).toEqual([0]);
  });

  it('leaves the attributes of directories alone that it does not list', async () => {
    const lower = await new LayerDraft()
      .directory('d', { mode: 0o701, mtimeSeconds: 5 })
      .file('d/a', 'x')
      .on(null);
    const layer = await new LayerDraft().file('d/b', 'x').whiteout('d/a').on(lower.device);
    expect(await seen(layer.device, 'd')).toMatchObject({ mode: 0o701, mtime: [5, 0] });
  });

  it('replaces a link to a directory by the directory it brings', async () => {
    const lower = await new LayerDraft().file('real/a', 'x').symlink('link', 'real').on(null);
    const layer = await new LayerDraft().directory('link').on(lower.device);
    expect(await names(layer.device)).toEqual(['link', 'real', 'real/a']);
    expect(await seen(layer.device, 'link')).toMatchObject({ type: 'directory' });
  });

  it('moves the names of a directory that outgrows its slot into blocks, not the directory', async () => {
    const lower = await new LayerDraft().file('d/a', 'x').file('e/b', 'x').on(null);
    const layer = await new LayerDraft().file(`d/${'n'.repeat(200)}`, 'x').on(lower.device);
    expect(await nidOf(layer.device, 'd')).toBe(await nidOf(lower.device, 'd'));
    const reader = await ErofsReader.open(layer.device);
    expect(await reader.lookup('d')).toMatchObject({ layout: 'plain' });
    expect(await names(layer.device)).toEqual(['d', 'd/a', `d/${'n'.repeat(200)}`, 'e', 'e/b']);
  });

  it('puts the names of the root into blocks when block 0 is full, and back', async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 200; index++) draft.file(`name-${index}`, 'x');
    const lower = await draft.on(null);
    expect(await (await ErofsReader.open(lower.device)).root()).toMatchObject({ layout: 'plain' });
    const layer = await new LayerDraft().opaque('').file('only', 'x').on(lower.device);
    expect(await (await ErofsReader.open(layer.device)).root()).toMatchObject({ layout: 'inline' });
    expect(await names(layer.device)).toEqual(['only']);
  });

  it('moves a directory whose xattrs outgrow its slot, and all that names it', async () => {
    const lower = await new LayerDraft().file('p/d/sub/x', 'x').file('p/d/file', 'y').on(null);
    const layer = await new LayerDraft().directory('p/d', big(10_000)).on(lower.device);
    expect(await nidOf(layer.device, 'p/d')).not.toBe(await nidOf(lower.device, 'p/d'));
    expect(await nidOf(layer.device, 'p/d/sub')).toBe(await nidOf(lower.device, 'p/d/sub'));
    expect(await nidOf(layer.device, 'p')).toBe(await nidOf(lower.device, 'p'));
    expect(await seen(layer.device, 'p/d')).toMatchObject({
      nlink: 3,
      xattrs: [['trusted.big', '62'.repeat(10_000)]],
    });
    expect(await names(layer.device)).toEqual(await names(lower.device));
    expect(layer.inodes).toBe(lower.inodes);
    // Its ".." is in the last place of its own data, the second name: look at the bytes themselves.
    const reader = await ErofsReader.open(layer.device);
    const sub = await reader.lookup('p/d/sub');
    const data = sub && (await reader.readAll(sub));
    expect(data?.readUInt32LE(12)).toBe(await nidOf(layer.device, 'p/d'));
  });

  it('keeps xattrs of the root that do not fit into its block, until a layer brings others', async () => {
    const xattrs = new Map([
      ['user.small', Buffer.from('s')],
      ['trusted.long', Buffer.alloc(60_000, 'l')],
      ['trusted.longer', Buffer.alloc(65_535, 'L')],
    ]);
    const expected = [...xattrs].map(([name, value]) => [name, value.toString('hex')]).sort();
    const first = await new LayerDraft().directory('', { xattrs }).file('a', 'x').on(null);
    expect(await seen(first.device, '')).toMatchObject({ xattrs: expected });
    const second = await new LayerDraft().file('b/c', 'x').file('big', 'y'.repeat(9000)).on(first.device);
    expect(await seen(second.device, '')).toMatchObject({ xattrs: expected });
    expect(await names(second.device)).toEqual(['a', 'b', 'b/c', 'big']);
    const third = await new LayerDraft().directory('', big(3000)).on(second.device);
    expect(await seen(third.device, '')).toMatchObject({ xattrs: [['trusted.big', '62'.repeat(3000)]] });
    const fourth = await new LayerDraft().directory('', big(2000)).on(third.device);
    expect(await seen(fourth.device, '')).toMatchObject({ xattrs: [['trusted.big', '62'.repeat(2000)]] });
    expect(await names(fourth.device)).toEqual(['a', 'b', 'b/c', 'big']);
  });

  it('gives xattrs to a root that had none, more than its block holds', async () => {
    for (const count of [1, 200]) {
      const draft = new LayerDraft();
      for (let index = 0; index < count; index++) draft.file(`name-${index}`, 'x');
      const lower = await draft.on(null);
      const layer = await new LayerDraft().directory('', big(10_000)).on(lower.device);
      expect(await seen(layer.device, '')).toMatchObject({ xattrs: [['trusted.big', '62'.repeat(10_000)]] });
      expect(await names(layer.device)).toEqual(await names(lower.device));
    }
  });

  it('does not move a directory whose xattrs shrink and grow again within its slot', async () => {
    const lower = await new LayerDraft().directory('d', big(500)).file('d/a', 'x').on(null);
    const none = await new LayerDraft().directory('d').on(lower.device);
    expect(await seen(none.device, 'd')).toMatchObject({ xattrs: [] });
    expect(await nidOf(none.device, 'd')).toBe(await nidOf(lower.device, 'd'));
    expect(await names(none.device)).toEqual(['d', 'd/a']);
  });

  it('keeps names out of the slot of long xattrs where they would cross a block boundary', async () => {
    const lower = await new LayerDraft()
      .directory('d', big(10_000))
      .file(`d/${'n'.repeat(200)}`, 'x')
      .on(null);
    const layer = await new LayerDraft().directory('d', big(3950)).file('d/a', 'y').on(lower.device);
    expect(await names(layer.device)).toEqual(['d', 'd/a', `d/${'n'.repeat(200)}`]);
    expect(await nidOf(layer.device, 'd')).toBe(await nidOf(lower.device, 'd'));
  });

  it('says so when it is aborted', async () => {
    const entries = Array.from({ length: 20_000 }, (_, index) => ({
      kind: 'fifo' as const,
      path: `${index}`,
      attributes: attributes(),
    }));
    const controller = new AbortController();
    const input = { parent: null, entries, dataBlocks: 0, readTail: () => {}, uuid: Buffer.alloc(16) };
    const built = buildErofsLayer({ ...input, signal: controller.signal }, () => {});
    setImmediate(() => controller.abort());
    await expect(built).rejects.toMatchObject({ name: 'AbortError' });
  });
});

describe('a small change in a directory of 20,000 names', () => {
  let base: StackedLayer;
  beforeAll(async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 20_000; index++) draft.file(`d/${10_000 + index}`, '');
    base = await draft.on(null);
  });

  it.each([
    ['replaces a file', new LayerDraft().file('d/12345', 'new')],
    ['adds a name in the middle', new LayerDraft().file('d/12345a', 'new')],
    ['adds a name at the end', new LayerDraft().file('d/zz', 'new')],
    ['takes a name away', new LayerDraft().whiteout('d/12345')],
  ])('that %s writes few blocks', async (_, draft) => {
    const layer = await draft.on(base.device);
    expect(layer.emitted.length).toBeLessThan(5);
    const expected = new Set(await names(base.device));
    for (const { kind, path } of draft.entries) {
      if (kind === 'whiteout') expected.delete(path);
      else expected.add(path);
    }
    expect(new Set(await names(layer.device))).toEqual(expected);
  });

  it('packs them anew when most are gone', async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 20_000; index++) if (index % 4 !== 0) draft.whiteout(`d/${10_000 + index}`);
    const layer = await draft.on(base.device);
    const directory = await (await ErofsReader.open(layer.device)).lookup('d');
    expect(directory?.size).toBeLessThan(5000 * 20);
    expect(await names(layer.device)).toHaveLength(5001);
  });
});

describe('a small change on a large base', () => {
  let base: StackedLayer;
  beforeAll(async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 100_000; index++) draft.file(`usr/d${index % 500}/f${index}`, 'content');
    base = await draft.on(null);
  });

  it('reads and writes only the blocks it touches', async () => {
    base.device.reads.length = 0;
    const layer = await new LayerDraft()
      .file('usr/d7/new', 'new')
      .whiteout('usr/d8/f8')
      .hardlink('usr/d9/second', 'usr/d9/f9')
      .directory('usr/d10', { mode: 0o700 })
      .on(base.device);
    const bytes = base.device.reads.reduce((sum, [, length]) => sum + length, 0);
    expect(base.device.reads.length).toBeLessThan(40);
    expect(bytes).toBeLessThan(200_000);
    expect(layer.emitted.length).toBeLessThan(20);
    expect(layer.inodes).toBe(base.inodes);
  });

  it('removes all of it by a few dozen reads', async () => {
    base.device.reads.length = 0;
    const layer = await new LayerDraft().whiteout('usr').on(base.device);
    expect(base.device.reads.length).toBeLessThan(60);
    expect(layer.inodes).toBe(1);
    expect(layer.emitted).toEqual([0]);
  });

  it('stays small on top of another change', async () => {
    const second = await new LayerDraft().file('usr/d7/new', 'new').on(base.device);
    const third = await new LayerDraft().whiteout('usr/d7/new').whiteout('usr/d7/f7').on(second.device);
    expect(third.emitted.length).toBeLessThan(6);
    expect(third.inodes).toBe(base.inodes - 1);
  });
});

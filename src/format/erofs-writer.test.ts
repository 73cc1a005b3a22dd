import { beforeAll, describe, expect, it } from 'vitest';
import {
  attributes,
  type BlockDevice,
  LayerDraft,
  type StackedLayer,
} from '../../test/support/erofs-device.ts';
import { type SeenInode, snapshotByReader } from '../../test/support/tree-snapshot.ts';
import { ErofsReader } from './erofs-reader.ts';
import { buildErofsLayer } from './erofs-writer.ts';

/** The names in a device that match a pattern. */
async function names(device: BlockDevice): Promise<string[]> {
  return [...(await snapshotByReader(device)).keys()].filter((path) => path !== '');
}

async function seen(device: BlockDevice, path: string): Promise<SeenInode | undefined> {
  return (await snapshotByReader(device)).get(path);
}

async function nidOf(device: BlockDevice, path: string): Promise<number | undefined> {
  return (await (await ErofsReader.open(device)).lookup(path))?.nid;
}

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

  it('takes 200,000 entries of one directory in seconds', async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 200_000; index++) draft.file(`d/${index}`, '');
    const started = performance.now();
    const layer = await draft.on(null);
    expect(performance.now() - started).toBeLessThan(20_000);
    expect(layer.inodes).toBe(200_002);
  });
});

describe('whiteouts', () => {
  async function base(): Promise<BlockDevice> {
    const draft = new LayerDraft()
      .file('d/a', 'A')
      .file('d/sub/b', 'B')
      .symlink('link', 'd')
      .file('top', 'T');
    return (await draft.on(null)).device;
  }

  it('hide files and whole directories of the layers below', async () => {
    const layer = await new LayerDraft()
      .whiteout('d')
      .whiteout('top')
      .on(await base());
    expect(await names(layer.device)).toEqual(['link']);
    expect(layer.inodes).toBe(2);
  });

  it('never hide what the same layer creates, before or after them', async () => {
    const layer = await new LayerDraft()
      .file('top', 'new')
      .whiteout('top')
      .file('d/new', 'new')
      .whiteout('d')
      .opaque('fresh')
      .file('fresh/x', 'x')
      .opaque('fresh')
      .on(await base());
    expect(await names(layer.device)).toEqual(['d', 'd/new', 'fresh', 'fresh/x', 'link', 'top']);
    expect(layer.inodes).toBe(7);
  });

  it('of what is not there, or below a file, are ignored', async () => {
    const device = await base();
    const layer = await new LayerDraft()
      .whiteout('nothing')
      .whiteout('top/x')
      .whiteout('no/where')
      .opaque('top')
      .on(device);
    expect(await names(layer.device)).toEqual(await names(device));
  });

  it('make a directory opaque: it stays, what was in it goes', async () => {
    const layer = await new LayerDraft()
      .file('d/new', 'n')
      .opaque('d')
      .on(await base());
    expect(await names(layer.device)).toEqual(['d', 'd/new', 'link', 'top']);
    expect(await seen(layer.device, 'd')).toMatchObject({ nlink: 2 });
  });

  it('pass through links of the layers below', async () => {
    const layer = await new LayerDraft().whiteout('link/a').on(await base());
    expect(await names(layer.device)).toEqual(['d', 'd/sub', 'd/sub/b', 'link', 'top']);
    const opaque = await new LayerDraft().opaque('link').on(await base());
    expect(await names(opaque.device)).toEqual(['d', 'link', 'top']);
  });

  it('do not pass through a link that the same layer replaces by a directory', async () => {
    const layer = await new LayerDraft()
      .directory('link')
      .opaque('link')
      .whiteout('link/a')
      .file('link/x', 'x')
      .on(await base());
    expect(await names(layer.device)).toEqual(['d', 'd/a', 'd/sub', 'd/sub/b', 'link', 'link/x', 'top']);
  });

  it.each(['../real', '/real'])(
    'do not pass through such a link (to %s) either where another link leads to it',
    async (target) => {
      const lower = await new LayerDraft()
        .file('target/kept', 'x')
        .symlink('real/l', '../target')
        .symlink('via/link', target)
        .on(null);
      const layer = await new LayerDraft().directory('real/l').opaque('via/link/l').on(lower.device);
      expect(await names(layer.device)).toContain('target/kept');
      const followed = await new LayerDraft().opaque('via/link/l').on(lower.device);
      expect(await names(followed.device)).not.toContain('target/kept');
    },
  );

  it('leave other names of a hard link, with one link less', async () => {
    const lower = await new LayerDraft().file('d/one', 'x').hardlink('two', 'd/one').on(null);
    const layer = await new LayerDraft().whiteout('d').on(lower.device);
    expect(await seen(layer.device, 'two')).toMatchObject({ nlink: 1 });
    expect(layer.inodes).toBe(2);
    const last = await new LayerDraft().whiteout('two').on(layer.device);
    expect(last.inodes).toBe(1);
  });

  it('of all names of a hard link do not touch its inode any more', async () => {
    const lower = await new LayerDraft().file('a/x', 'x').hardlink('b/x', 'a/x').on(null);
    const layer = await new LayerDraft().whiteout('a').whiteout('b').on(lower.device);
    expect(layer.emitted).toEqual([0]);
    expect(layer.inodes).toBe(1);
  });

  it('cannot hide the root', async () => {
    await expect(new LayerDraft().whiteout('').on(await base())).rejects.toMatchObject({
      code: 'ERR_LAYER_CONFLICT',
    });
  });
});

describe('hard links', () => {
  let lower: StackedLayer;
  beforeAll(async () => {
    lower = await new LayerDraft().file('d/file', 'x').symlink('d/link', 'file').symlink('ln', 'd').on(null);
  });

  it('to a file of a layer below count in its inode, which stays where it is', async () => {
    const layer = await new LayerDraft().hardlink('d/second', 'd/file').on(lower.device);
    expect(await seen(layer.device, 'd/file')).toMatchObject({ nlink: 2, sameAs: 'd/file' });
    expect(await seen(layer.device, 'd/second')).toMatchObject({ nlink: 2, sameAs: 'd/file' });
    expect(await nidOf(layer.device, 'd/second')).toBe(await nidOf(lower.device, 'd/file'));
    expect(layer.inodes).toBe(lower.inodes);
  });

  it('to a symbolic link name the link itself', async () => {
    const layer = await new LayerDraft().hardlink('second', 'ln/link').on(lower.device);
    expect(await seen(layer.device, 'second')).toMatchObject({ type: 'symlink', nlink: 2, sameAs: 'd/link' });
  });

  it('may come before their target, and before a link to it', async () => {
    const layer = await new LayerDraft().hardlink('a', 'b').hardlink('b', 'c').file('c', 'C').on(null);
    expect(await seen(layer.device, 'a')).toMatchObject({ type: 'file', nlink: 3 });
  });

  it('find their target also when it is replaced by a link to themselves', async () => {
    const layer = await new LayerDraft().hardlink('a', 'c').file('c', 'C').hardlink('c', 'a').on(null);
    expect(await seen(layer.device, 'a')).toMatchObject({ type: 'file', nlink: 2 });
  });

  it('give way to a later entry with their path, also when they came before their target', async () => {
    const layer = await new LayerDraft().hardlink('a', 'c').file('a', 'A').file('c', 'C').on(null);
    expect(await seen(layer.device, 'a')).toMatchObject({ nlink: 1 });
  });

  it('in long chains that come backwards take no quadratic time', async () => {
    const draft = new LayerDraft();
    for (let index = 0; index < 50_000; index++) draft.hardlink(`n${index}`, `n${index + 1}`);
    draft.file('n50000', 'x');
    const started = performance.now();
    const layer = await draft.on(null);
    expect(performance.now() - started).toBeLessThan(10_000);
    expect(layer.inodes).toBe(2);
  });

  it('onto themselves do nothing', async () => {
    const layer = await new LayerDraft().hardlink('d/file', 'ln/file').on(lower.device);
    expect(await snapshotByReader(layer.device)).toEqual(await snapshotByReader(lower.device));
  });

  it('replace what stood under their name', async () => {
    const layer = await new LayerDraft().hardlink('ln', 'd/file').on(lower.device);
    expect(await seen(layer.device, 'ln')).toMatchObject({ type: 'file', sameAs: 'd/file' });
  });

  it.each([
    ['to a directory', new LayerDraft().hardlink('x', 'd'), /x .*directory d/],
    ['to nothing', new LayerDraft().hardlink('x', 'nothing'), /x .*nothing/],
    ['to each other only', new LayerDraft().hardlink('x', 'y').hardlink('y', 'x'), /[xy] .*[xy]/],
    ['over the directory that holds their target', new LayerDraft().hardlink('d', 'd/file'), /^d .*d\/file/],
    ['in the place of the root', new LayerDraft().hardlink('', 'd/file'), /root/],
  ])('are a conflict %s', async (_, draft, message) => {
    const built = draft.on(lower.device);
    await expect(built).rejects.toMatchObject({ code: 'ERR_LAYER_CONFLICT' });
    await expect(built).rejects.toThrow(message);
  });
});

describe('paths', () => {
  it('pass through links, whose targets do not leave the root', async () => {
    const lower = await new LayerDraft()
      .directory('real/inner')
      .symlink('absolute', '/real')
      .symlink('real/up', '../../../real/inner/..')
      .symlink('dangling', 'made/here/../there')
      .on(null);
    const layer = await new LayerDraft()
      .file('absolute/one', '1')
      .file('real/up/two', '2')
      .file('dangling/three', '3')
      .on(lower.device);
    expect(await names(layer.device)).toEqual([
      'absolute',
      'dangling',
      'made',
      'made/there',
      'made/there/three',
      'real',
      'real/inner',
      'real/one',
      'real/two',
      'real/up',
    ]);
  });

  it('pass through 255 links and no more', async () => {
    const draft = new LayerDraft().directory('l0');
    for (let index = 1; index <= 256; index++) draft.symlink(`l${index}`, `l${index - 1}`);
    const { device } = await draft.on(null);
    await new LayerDraft().file('l255/x', '').on(device);
    await expect(new LayerDraft().file('l256/x', '').on(device)).rejects.toThrow('too many symbolic links');
  });

  it.each([
    ['a file in the way', new LayerDraft().file('a', '').file('a/b', ''), 'ERR_LAYER_CONFLICT'],
    ['a name of 256 bytes', new LayerDraft().file('n'.repeat(256), ''), 'ERR_LAYER_CONFLICT'],
    [
      'such a name among the parents',
      new LayerDraft().file(`${'n'.repeat(256)}/x`, ''),
      'ERR_LAYER_CONFLICT',
    ],
    ['NUL in a name', new LayerDraft().file('a\0b', ''), 'ERR_LAYER_CONFLICT'],
    ['a file as the root', new LayerDraft().file('', ''), 'ERR_LAYER_CONFLICT'],
    ['an empty symbolic link', new LayerDraft().symlink('a', ''), 'ERR_LAYER_CONFLICT'],
    ['a symbolic link of 4,096 bytes', new LayerDraft().symlink('a', 'x'.repeat(4096)), 'ERR_LAYER_CONFLICT'],
    ['an owner over 32 bits', new LayerDraft().file('a', '', { uid: 2 ** 32 }), 'ERR_LAYER_CONFLICT'],
    [
      'a device number over 20 bits',
      new LayerDraft().add({ kind: 'block', path: 'a', attributes: attributes(), major: 1, minor: 2 ** 20 }),
      'ERR_LAYER_CONFLICT',
    ],
    ['xattrs of the root that do not fit', new LayerDraft().directory('', big(3000)), 'ERR_UNSUPPORTED'],
  ])('are refused with %s', async (_, draft, code) => {
    await expect(draft.on(null)).rejects.toMatchObject({ code });
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

  it('stays small on top of another change', async () => {
    const second = await new LayerDraft().file('usr/d7/new', 'new').on(base.device);
    const third = await new LayerDraft().whiteout('usr/d7/new').whiteout('usr/d7/f7').on(second.device);
    expect(third.emitted.length).toBeLessThan(6);
    expect(third.inodes).toBe(base.inodes - 1);
  });
});

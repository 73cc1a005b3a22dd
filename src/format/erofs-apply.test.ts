import { beforeAll, describe, expect, it } from 'vitest';
import {
  attributes,
  type BlockDevice,
  LayerDraft,
  type StackedLayer,
} from '../../test/support/erofs-device.ts';
import { names, nidOf, seen, snapshotByReader } from '../../test/support/tree-snapshot.ts';

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

  it('give all names their owner, mode and time, but no xattrs and a symbolic link no mode', async () => {
    const given = { mode: 0o600, uid: 3, mtimeSeconds: 9, xattrs: new Map([['user.b', Buffer.from('b')]]) };
    const layer = await new LayerDraft()
      .file('new', 'n', { xattrs: new Map([['user.a', Buffer.from('a')]]) })
      .hardlink('new2', 'new', given)
      .hardlink('d/file2', 'd/file', given)
      .hardlink('d/link2', 'd/link', given)
      .on(lower.device);
    const expected = { mode: 0o600, uid: 3, mtime: [9, 0], nlink: 2 };
    expect(await seen(layer.device, 'new')).toMatchObject({ ...expected, xattrs: [['user.a', '61']] });
    expect(await seen(layer.device, 'd/file')).toMatchObject({ ...expected, xattrs: [] });
    expect(await seen(layer.device, 'd/link')).toMatchObject({ ...expected, mode: 0o777 });
  });

  it('that come before their target leave it its own attributes', async () => {
    const layer = await new LayerDraft().hardlink('a', 'b', { uid: 3 }).file('b', 'B', { uid: 4 }).on(null);
    expect(await seen(layer.device, 'a')).toMatchObject({ uid: 4, nlink: 2 });
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

  it.each([
    [
      'whose directory went in between, by way of a link',
      new LayerDraft().symlink('l', '.').file('d/a', '').symlink('l/d', 'e').file('d/b', ''),
      ['d', 'e', 'e/b', 'l'],
    ],
    [
      'whose directory went with the one above it, by way of a link',
      new LayerDraft().symlink('l', '.').file('d/e/a', '').symlink('l/d', 'f').file('d/e/b', ''),
      ['d', 'f', 'f/e', 'f/e/b', 'l'],
    ],
    [
      'behind a link that one of them replaces',
      new LayerDraft().symlink('l', '.').file('l/a', '').directory('l/l').file('l/b', ''),
      ['a', 'l', 'l/b'],
    ],
    [
      'that are above and beside one another',
      new LayerDraft()
        .directory('d')
        .directory('d/e')
        .file('d/e/a', '')
        .file('d/b', '')
        .directory('dd')
        .file('d/c', '')
        .file('dd/f', '')
        .file('g', ''),
      ['d', 'd/b', 'd/c', 'd/e', 'd/e/a', 'dd', 'dd/f', 'g'],
    ],
    [
      'above which a directory went, by way of a link',
      new LayerDraft()
        .symlink('l', '.')
        .directory('d/e')
        .file('d/e/a', '')
        .symlink('l/d', 'f')
        .file('d/b', ''),
      ['d', 'f', 'f/b', 'l'],
    ],
    [
      'that are not in normal form',
      new LayerDraft().file('d/a', '').file('d/b/', '').directory('d/c/..').file('d/c', '').file('d/.', ''),
      ['d'],
    ],
  ])('lead where they lead by then, for neighbours %s', async (_, draft, expected) => {
    expect(await names((await draft.on(null)).device)).toEqual(expected);
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
    [
      'more xattrs of the root than it can point at',
      new LayerDraft().directory('', {
        xattrs: new Map(Array.from({ length: 256 }, (_, index) => [`user.${index}`, Buffer.alloc(20)])),
      }),
      'ERR_LIMIT',
    ],
  ])('are refused with %s', async (_, draft, code) => {
    await expect(draft.on(null)).rejects.toMatchObject({ code });
  });
});

import {
  chmodSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { toBytes } from '../../src/format/byte-string.ts';
import { requireCapability } from './capabilities.ts';
import { run } from './processes.ts';
import { diffTrees, readTree, type TreeEntry } from './tree.ts';
import { writeXattr } from './xattrs.ts';

let scratch: string;
let root: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'dadi-tree-'));
  root = join(scratch, 'root');
  mkdirSync(join(root, 'dir'), { recursive: true });
  writeFileSync(join(root, 'dir/file'), 'hello');
  writeFileSync(join(root, 'other'), 'other');
  symlinkSync('dir/file', join(root, 'link'));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

const entryOf = (entries: readonly TreeEntry[], path: string): TreeEntry =>
  entries.find((entry) => entry.path === path) ?? expect.fail(`${path} is not in the tree`);

/** What diffTrees tells when `change` is done to the tree; times of directories change by the way. */
async function diffAfter(change: () => void): Promise<string[]> {
  const before = await readTree(root);
  change();
  return diffTrees(
    before,
    await readTree(root),
    (field, { type }) => field === 'mtimeNs' && type === 'directory',
  );
}

describe('readTree', () => {
  it('reads types, contents, times and link targets', async () => {
    chmodSync(join(root, 'dir/file'), 0o4751);
    utimesSync(join(root, 'dir/file'), 0, 1.5);
    const entries = await readTree(root);
    expect(entries.map(({ path, type }) => [path, type])).toEqual([
      ['', 'directory'],
      ['dir', 'directory'],
      ['dir/file', 'file'],
      ['link', 'symlink'],
      ['other', 'file'],
    ]);
    expect(entryOf(entries, 'dir/file')).toEqual({
      path: 'dir/file',
      type: 'file',
      mode: 0o4751,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      mtimeNs: 1_500_000_000n,
      size: 5,
      digest: '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824',
      linkTarget: '',
      device: '',
      links: 1,
      linkedTo: '',
      xattrs: {},
    });
    expect(entryOf(entries, 'link').linkTarget).toBe('dir/file');
  });

  it('reads names and link targets that are not UTF-8', async () => {
    const odd = Buffer.concat([Buffer.from(`${root}/`), toBytes('caf\xe9')]);
    symlinkSync(toBytes('\xff\xfe'), odd);
    expect(entryOf(await readTree(root), 'caf\xe9').linkTarget).toBe('\xff\xfe');
  });

  it('reads binary, empty and large xattrs', async () => {
    const large = Buffer.alloc(2000, 0xfe);
    writeXattr(join(root, 'other'), 'user.large', large);
    writeXattr(join(root, 'other'), 'user.binary', Buffer.from([0, 0xff, 0]));
    writeXattr(join(root, 'other'), 'user.empty', Buffer.alloc(0));
    expect(entryOf(await readTree(root), 'other').xattrs).toEqual({
      'user.binary': '\0\xff\0',
      'user.empty': '',
      'user.large': large.toString('latin1'),
    });
  });

  it('names hard links by the first of their paths', async () => {
    linkSync(join(root, 'other'), join(root, 'dir/again'));
    linkSync(join(root, 'other'), join(root, 'z'));
    const entries = await readTree(root);
    for (const path of ['dir/again', 'other', 'z']) {
      expect(entryOf(entries, path)).toMatchObject({ linkedTo: 'dir/again', links: 3 });
    }
  });

  it('reads thousands of files in seconds', async () => {
    mkdirSync(join(root, 'many'));
    for (let i = 0; i < 5000; i++) writeFileSync(join(root, `many/${i}`), String(i));
    const started = performance.now();
    expect(await readTree(root)).toHaveLength(5006);
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  it('rejects for what is no directory', async () => {
    await expect(readTree(join(root, 'none'))).rejects.toThrow('ENOENT');
    await expect(readTree(join(root, 'other'))).rejects.toThrow('is not a directory');
  });

  describe.skipIf(!requireCapability('root'))('as root', () => {
    it('reads devices and fifos', async () => {
      await run('mknod', [join(root, 'disk'), 'b', '259', '70000']);
      await run('mknod', [join(root, 'null'), 'c', '1', '3']);
      await run('mkfifo', [join(root, 'fifo')]);
      const entries = await readTree(root);
      expect(entryOf(entries, 'disk')).toMatchObject({ type: 'block', device: '259:70000' });
      expect(entryOf(entries, 'null')).toMatchObject({ type: 'character', device: '1:3' });
      expect(entryOf(entries, 'fifo')).toMatchObject({ type: 'fifo', device: '' });
    });

    it('does not enter what is mounted in the tree', async () => {
      await run('mount', ['-t', 'tmpfs', 'none', join(root, 'dir')]);
      try {
        writeFileSync(join(root, 'dir/mounted'), 'x');
        expect((await readTree(root)).map(({ path }) => path)).toEqual(['', 'dir', 'link', 'other']);
      } finally {
        await run('umount', [join(root, 'dir')]);
      }
    });
  });
});

describe('diffTrees', () => {
  it('finds nothing in a tree that stayed as it was', async () => {
    expect(await diffAfter(() => {})).toEqual([]);
  });

  it.each<[string, () => void, (string | RegExp)[]]>([
    ['a missing file', () => unlinkSync(join(root, 'other')), ['other: missing (a file)']],
    ['a new file', () => writeFileSync(join(root, 'new'), ''), ['new: unexpected (a file)']],
    ['another mode', () => chmodSync(join(root, 'dir'), 0o1700), [/^dir: mode 01700, expected 0755$/]],
    [
      'another time of a file',
      () => utimesSync(join(root, 'other'), 0, 1),
      [/^other: mtimeNs 1000000000, expected \d+$/],
    ],
    [
      'another time of a link',
      () => lutimesSync(join(root, 'link'), 0, 1),
      [/^link: mtimeNs 1000000000, expected/],
    ],
    [
      'another content of the same size',
      () => writeFileSync(join(root, 'other'), 'OTHER'),
      [/^other: mtimeNs/, /^other: digest [0-9a-f]{64}, expected/],
    ],
    [
      'another size',
      () => truncateSync(join(root, 'other'), 2),
      [/^other: mtimeNs/, 'other: size 2, expected 5', /^other: digest/],
    ],
    [
      'another type',
      () => {
        unlinkSync(join(root, 'other'));
        mkdirSync(join(root, 'other'));
      },
      ['other: type directory, expected file'],
    ],
    [
      'another link target',
      () => {
        unlinkSync(join(root, 'link'));
        symlinkSync('dir/else', join(root, 'link'));
      },
      [/^link: mtimeNs/, "link: linkTarget 'dir/else', expected 'dir/file'"],
    ],
    [
      'an xattr',
      () => writeXattr(join(root, 'dir'), 'user.a', Buffer.from('b')),
      ['dir: xattrs {"user.a":"b"}, expected {}'],
    ],
    [
      'one name more',
      () => linkSync(join(root, 'other'), join(root, 'more')),
      ['other: links 2, expected 1', "other: linkedTo 'more', expected ''", 'more: unexpected (a file)'],
    ],
  ])('finds %s', async (_, change, expected) => {
    const told = await diffAfter(change);
    expect(told).toEqual(
      expected.map((line) => (typeof line === 'string' ? line : expect.stringMatching(line))),
    );
  });

  it('finds other owners, devices and other pairs of hard links', async () => {
    const [entry] = await readTree(root);
    const pair = (linkedTo: string) => [{ ...entry!, uid: 1, gid: 2, device: '1:3', linkedTo }];
    expect(diffTrees([{ ...entry!, linkedTo: 'a' }], pair('b'))).toEqual([
      `the root: uid 1, expected ${entry!.uid}`,
      `the root: gid 2, expected ${entry!.gid}`,
      'the root: device 1:3, expected ',
      "the root: linkedTo 'b', expected 'a'",
    ]);
  });

  it('tells thirty differences and how many more there are', async () => {
    const told = await diffAfter(() => {
      for (let i = 0; i < 40; i++) writeFileSync(join(root, `new${i}`), '');
    });
    expect(told).toHaveLength(31);
    expect(told.at(-1)).toBe('… and 10 more differences');
  });
});

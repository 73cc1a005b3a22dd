/** What entries do to each other and to layers below: repetitions, changes of type, links. */
import { archive, COPIES, dir, file, hardlink, type LayerCase, symlink, whiteout } from './layer-cases.ts';

const DAY_NS = 86_400_000_000_000n;
const NOT_BELOW = 'it unpacks each layer by itself, and a hard link to another layer needs a copy there';

export const LINK_CASES: readonly LayerCase[] = [
  {
    name: 'entries without parents',
    layers: [archive(dir('x', { mode: 0o700, uid: 5 })), archive(file('x/y/z'), file('a/b/c'))],
    unlisted: ['a', 'a/b', 'x/y'],
    touched: ['x'],
    dissent: {
      umoci: { 'x: mtimeNs': 'it changes the time of a directory that an unlisted one is made in' },
    },
  },
  {
    name: 'entries that repeat: the last wins, and a directory keeps what is in it',
    layers: [
      archive(
        file('a', 'first'),
        file('a', 'second', { mode: 0o600 }),
        dir('d', { mode: 0o700 }),
        file('d/f'),
        dir('d', { mode: 0o711, uid: 3 }),
        file('b'),
        hardlink('linked', 'b'),
        file('b', 'other'),
        symlink('s', 'a'),
        symlink('s', 'b'),
      ),
    ],
  },
  {
    name: 'a directory that repeats with other extended attributes',
    layers: [
      archive(
        dir('d', { xattrs: { 'user.a': Buffer.from('1') } }),
        dir('d', { xattrs: { 'user.b': Buffer.from('2') } }),
      ),
      archive(dir('d', { xattrs: { 'user.c': Buffer.from('3') } })),
    ],
    dissent: {
      native: { 'd: xattrs': 'it adds them to those that are there; the last entry says what there is' },
    },
  },
  {
    name: 'paths that change their type, within a layer and across',
    layers: [
      archive(
        file('file-dir'),
        dir('dir-file'),
        file('dir-file/gone'),
        dir('dir-link'),
        file('dir-link/gone'),
        symlink('link-dir', 'target'),
        dir('target'),
        file('target/stays'),
        file('now', 'file'),
        dir('now'),
        file('now/inside'),
        dir('then'),
        file('then/gone'),
        file('then', 'file'),
        { path: 'device-fifo', type: 'character', deviceMajor: 1, deviceMinor: 3 },
      ),
      archive(
        dir('file-dir'),
        file('file-dir/new'),
        file('dir-file'),
        symlink('dir-link', 'target'),
        dir('link-dir'),
        file('link-dir/new'),
        { path: 'device-fifo', type: 'fifo' },
      ),
    ],
    dissent: { native: { 'target: mtimeNs': COPIES, 'now: mtimeNs': COPIES } },
  },
  {
    name: 'hard links in all spellings of their target, to all types, and onto other files',
    layers: [
      archive(
        dir('d'),
        file('d/a'),
        hardlink('b', '/d/a'),
        hardlink('c', './d/./a'),
        hardlink('e', 'd//a'),
        symlink('s', 'd'),
        hardlink('f', 's/a'),
        { path: 'null', type: 'character', deviceMajor: 1, deviceMinor: 3 },
        hardlink('null-too', 'null'),
        { path: 'fifo', type: 'fifo' },
        hardlink('fifo-too', 'fifo'),
        file('replaced'),
        hardlink('replaced', 'd/a'),
      ),
    ],
  },
  {
    name: 'hard links to symbolic links, which are not followed',
    layers: [
      archive(
        symlink('s', 't'),
        file('t'),
        hardlink('h', 's'),
        symlink('dangling', 'nowhere'),
        hardlink('h2', 'dangling'),
      ),
    ],
  },
  {
    name: 'hard links whose entries say other attributes than their target',
    layers: [
      archive(
        dir('d'),
        file('d/a', 'x', { mode: 0o600, uid: 4, xattrs: { 'user.x': Buffer.from('1') } }),
        hardlink('d/b', 'd/a', { mode: 0o4755, uid: 9, mtimeNs: DAY_NS }),
        symlink('s', 't'),
        hardlink('s2', 's', { mode: 0o600, uid: 3 }),
      ),
    ],
    dissent: {
      umoci: Object.fromEntries(
        [
          'd/a: mode',
          'd/a: uid',
          'd/a: mtimeNs',
          'd/b: mode',
          'd/b: uid',
          'd/b: mtimeNs',
          's: uid',
          's2: uid',
        ].map((line) => [line, 'it takes no attributes from entries of hard links; containerd does']),
      ),
    },
  },
  {
    name: 'hard links whose entries have other extended attributes',
    layers: [
      archive(
        file('a', 'x', { xattrs: { 'user.x': Buffer.from('1') } }),
        hardlink('b', 'a', { xattrs: { 'user.y': Buffer.from('2') } }),
      ),
    ],
    dissent: {
      native: {
        'a: xattrs': 'it adds them; no archiver writes others than those of the target',
        'b: xattrs': 'the same',
      },
    },
  },
  {
    name: 'hard links to files of layers below',
    layers: [
      archive(dir('d'), file('d/a', 'x', { uid: 7, xattrs: { 'user.x': Buffer.from('1') } }), file('b')),
      archive(
        dir('d'),
        hardlink('d/c', 'd/a', { uid: 7, xattrs: { 'user.x': Buffer.from('1') } }),
        hardlink('e', 'b'),
      ),
      archive(hardlink('f', 'e'), whiteout('b')),
    ],
    dissent: {
      native: { 'd: mtimeNs': COPIES },
      overlayfs: { refuses: 'no such file or directory', because: NOT_BELOW },
    },
  },
  {
    name: 'hard links that come before their target',
    layers: [archive(hardlink('a', 'b'), hardlink('b', 'c'), file('c'))],
    dissent: {
      umoci: {
        refuses: 'no such file or directory',
        because: 'the archive is clear, and its target is there',
      },
      native: { refuses: 'no such file or directory', because: 'the same' },
    },
  },
  {
    name: 'a hard link onto itself',
    layers: [archive(file('a'), hardlink('a', 'a'))],
    dissent: {
      umoci: {
        refuses: 'no such file or directory',
        because: 'GNU tar and bsdtar take it for nothing to do',
      },
      native: { refuses: 'no such file or directory', because: 'the same' },
    },
  },
  {
    name: 'paths through symbolic links: relative, absolute, out of the root, to nowhere',
    layers: [
      archive(
        dir('usr'),
        dir('usr/lib'),
        symlink('lib', 'usr/lib'),
        file('lib/a'),
        symlink('absolute', '/usr'),
        file('absolute/b'),
        symlink('out', '../../../../etc'),
        file('out/c'),
        symlink('nowhere', 'no/where'),
        file('nowhere/d'),
      ),
    ],
    unlisted: ['etc', 'no', 'no/where'],
  },
  {
    name: 'paths through symbolic links of a layer below',
    layers: [
      archive(dir('usr'), dir('usr/lib'), symlink('lib', 'usr/lib')),
      archive(dir('usr'), dir('usr/lib'), file('lib/f')),
    ],
    dissent: {
      overlayfs: {
        'lib: type': 'it does not see the layers below, and makes a directory where the link was',
        'lib/f: missing': 'the same',
        'usr/lib/f: unexpected': 'the same',
      },
    },
  },
];

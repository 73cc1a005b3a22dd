/** What layers do to each other: links, replacements, whiteouts. */
import { archive, dir, file, hardlink, type LayerCase, opaque, symlink, whiteout } from './layer-cases.ts';

const DAY_NS = 86_400_000_000_000n;
const NOT_BELOW = 'it unpacks each layer by itself, and a hard link to another layer needs a copy there';
const COPIES = 'its copies of the layers below do not keep the times of directories that hold something';
const UNLISTED = 'no layer lists the directory: judges give it the time of their unpacking';
const SPEC = 'whiteouts are for the layers below only (OCI image-spec, layer.md)';

export const TREE_CASES: readonly LayerCase[] = [
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
  {
    name: 'whiteouts of files, directories, links and what is not there',
    layers: [
      archive(
        dir('d'),
        file('d/a'),
        file('d/b'),
        dir('gone'),
        file('gone/x'),
        symlink('s', 'd'),
        file('one'),
        hardlink('two', 'one'),
      ),
      archive(
        dir('d'),
        whiteout('d/a'),
        whiteout('d/none'),
        whiteout('none'),
        whiteout('gone'),
        whiteout('s'),
        whiteout('two'),
      ),
    ],
    dissent: {
      overlayfs: {
        'one: links': 'overlayfs shows how many names the inode has below',
        'one: linkedTo': 'the same',
      },
    },
  },
  {
    name: 'markers in directories that are not there',
    layers: [archive(dir('d'), file('d/a')), archive(whiteout('x/y/none'), opaque('o/p'))],
    dissent: {
      native: {
        'd: mtimeNs': COPIES,
        'o: missing': 'it makes the parents of markers, which stand for no file',
        'o/p: missing': 'the same',
        'x: missing': 'the same',
        'x/y: missing': 'the same',
      },
      overlayfs: {
        refuses: 'ENOENT',
        because: 'overlayfs shows the whiteout in a directory that is in one layer only',
      },
    },
  },
  {
    name: 'markers in the lowest layer',
    layers: [archive(whiteout('d'), dir('e'), opaque('e'), file('e/f'), whiteout('e/g'), file('a'))],
  },
  {
    name: 'a whiteout below a file',
    layers: [archive(file('f')), archive(whiteout('f/x'), opaque('f'))],
    dissent: {
      native: { refuses: 'not a directory', because: 'there is nothing to hide, as umoci has it' },
      overlayfs: { refuses: 'ENOENT', because: 'it hides the file by a directory, which shows the whiteout' },
    },
  },
  {
    name: 'an opaque marker before and after its siblings, and in a directory that the layer does not list',
    layers: [
      archive(
        dir('before'),
        file('before/a'),
        file('before/b'),
        dir('after'),
        file('after/a'),
        file('after/b'),
        dir('after/deep'),
        file('after/deep/a'),
        dir('unlisted', { mode: 0o750 }),
        file('unlisted/a'),
      ),
      archive(
        dir('before'),
        opaque('before'),
        file('before/b', 'new'),
        dir('after'),
        file('after/b', 'new'),
        dir('after/deep'),
        file('after/deep/b', 'new'),
        opaque('after'),
        opaque('unlisted'),
        file('unlisted/b'),
      ),
    ],
    touched: ['unlisted'],
    dissent: { umoci: { 'after/deep: mtimeNs': 'it changes the time when it removes what is hidden' } },
  },
  {
    name: 'an opaque marker behind what stands in unlisted directories',
    layers: [archive(dir('d'), file('d/a')), archive(dir('d'), file('d/s/b'), opaque('d'))],
    dissent: {
      umoci: { 'd: mtimeNs': 'it changes the time when it removes what is hidden', 'd/s: mtimeNs': UNLISTED },
      native: {
        'd/s: unexpected': 'it forgets that this very layer made the directory, and removes it',
        'd/s/b: unexpected': 'the same',
      },
      overlayfs: { 'd/s: mtimeNs': UNLISTED },
    },
  },
  {
    name: 'an opaque marker of the root',
    layers: [archive(dir('d'), file('d/a'), file('f')), archive(file('g'), { path: '.wh..wh..opq' })],
    dissent: {
      overlayfs: Object.fromEntries(
        ['d: missing', 'd/a: missing', 'f: missing'].map((line) => [
          line,
          'the root of an overlay cannot be opaque',
        ]),
      ),
    },
  },
  {
    name: 'whiteout and re-creation in one layer',
    layers: [
      archive(dir('d', { mode: 0o700 }), file('d/a'), file('f'), symlink('s', 'd'), dir('t'), file('t/a')),
      archive(
        whiteout('d'),
        dir('d'),
        file('d/b'),
        whiteout('f'),
        file('f', 'new'),
        whiteout('s'),
        dir('s'),
        file('s/c'),
        whiteout('t'),
        file('t', 'file'),
      ),
    ],
    dissent: {
      overlayfs: { 'd/a: missing': 'it forgets to make the new directory opaque, so the old content shows' },
    },
  },
  {
    name: 're-creation and whiteout in one layer',
    layers: [
      archive(dir('d'), file('d/a'), file('f'), file('z')),
      archive(
        dir('d'),
        file('d/b'),
        whiteout('d'),
        file('f', 'new'),
        whiteout('f'),
        file('own'),
        whiteout('own'),
      ),
    ],
    dissent: {
      umoci: { 'd: mtimeNs': 'it changes the time when it removes what is hidden' },
      native: { refuses: 'no such file or directory', because: SPEC },
      overlayfs: { refuses: 'file exists', because: SPEC },
    },
  },
  {
    name: 'whiteouts in hidden directories, and of what is hidden already',
    layers: [
      archive(dir('d'), file('d/a'), dir('d/e'), file('d/e/b'), file('c')),
      archive(
        dir('d'),
        whiteout('d/a'),
        whiteout('d/e/b'),
        whiteout('d/e'),
        opaque('d'),
        file('d/new'),
        whiteout('c'),
      ),
    ],
    dissent: {
      overlayfs: { refuses: 'file exists', because: 'nothing contradicts; umoci and the other one take it' },
    },
  },
  {
    name: 'a whiteout through a symbolic link',
    layers: [archive(dir('d'), file('d/a'), symlink('s', 'd')), archive(dir('d'), whiteout('s/a'))],
    dissent: {
      overlayfs: {
        refuses: 'ENOENT',
        because: 'it does not see the layers below, and makes a directory of the link',
      },
    },
  },
  {
    name: 'whiteouts of other types than files, and names that are almost markers',
    layers: [
      archive(dir('d'), file('d/a'), file('e'), file('.hidden')),
      archive(
        { path: '.wh.d', type: 'directory' },
        symlink('.wh.e', 'x'),
        whiteout('.hidden'),
        file('.whale'),
        file('a.wh.b'),
        file('.wh.x/child'),
      ),
    ],
    unlisted: ['.wh.x'],
  },
  {
    name: "aufs's own files",
    layers: [
      archive(
        dir('.wh..wh.plnk'),
        file('.wh..wh.plnk/1.2'),
        file('.wh..wh.aufs'),
        dir('.wh..wh.orph'),
        hardlink('linked', '.wh..wh.plnk/1.2'),
      ),
    ],
    unlisted: ['.wh..wh.plnk'],
  },
];

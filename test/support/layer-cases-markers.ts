/** Whiteouts and opaque markers: what they hide, in any order. */
import {
  archive,
  COPIES,
  dir,
  file,
  hardlink,
  type LayerCase,
  opaque,
  symlink,
  whiteout,
} from './layer-cases.ts';

const UNLISTED = 'no layer lists the directory: judges give it the time of their unpacking';
const SPEC = 'whiteouts are for the layers below only (OCI image-spec, layer.md)';

export const MARKER_CASES: readonly LayerCase[] = [
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

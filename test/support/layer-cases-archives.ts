/** Archives made by hand, with what programs at hand seldom write: extended headers, numbers, times, types, ends. */
import { archive, dir, FILE_CAPABILITY, file, type LayerCase, symlink } from './layer-cases.ts';
import { base256, END_BLOCKS, GNU_MAGIC, paxHeader, tarHeader, tarMember } from './tar-blocks.ts';

/** user::rw- user:5:r-x group::r-- mask::rwx other::r-- */
const ACCESS_ACL = Buffer.from(
  '0200000001000600ffffffff020005000500000004000400ffffffff10000700ffffffff20000400ffffffff',
  'hex',
);
/** user::rwx group::r-x other::r-x */
const DEFAULT_ACL = Buffer.from('0200000001000700ffffffff04000500ffffffff20000500ffffffff', 'hex');
const SECOND_NS = 1_000_000_000n;
const DAY_NS = 86_400n * SECOND_NS;

const FAR_TIMES = 'it cannot count nanoseconds that far';
const BOUNDED_TIMES = 'it sets times that its C library may not hold to 0; those of the archive are right';

export const ARCHIVE_CASES: readonly LayerCase[] = [
  {
    name: 'names with "./", with a slash at the front, and with more slashes than needed',
    layers: [
      archive(dir('./'), dir('./a/'), file('./a/./b'), file('/c'), file('//d'), file('a//e'), dir('/f/')),
    ],
  },
  {
    name: 'names and link targets that are not UTF-8',
    layers: [
      archive(
        dir('\xff\xfe'),
        file('\xff\xfe/caf\xe9\n\t '),
        symlink('link', '\xe9\xff'),
        paxHeader([
          ['hdrcharset', 'BINARY'],
          ['path', `\xff\xfe/${'\xe9'.repeat(255)}`],
        ]),
        tarMember({ path: 'short' }, 'x'),
      ),
    ],
  },
  {
    name: 'a mode, owner and time of the root itself',
    layers: [archive(dir('./', { mode: 0o711, uid: 5, mtimeNs: DAY_NS }), file('a'))],
    dissent: {
      native: {
        'the root: mode': 'it passes over the root; umoci and Docker do not, and the image says so',
        'the root: uid': 'the same',
      },
      overlayfs: { 'the root: mode': 'the same', 'the root: uid': 'the same' },
    },
  },
  {
    name: 'global extended headers',
    layers: [
      archive(
        paxHeader(
          [
            ['comment', 'what git writes'],
            ['uid', '7'],
            ['path', 'elsewhere'],
            ['SCHILY.xattr.user.g', 'x'],
          ],
          'g',
        ),
        file('a'),
        tarMember({ path: 'b', uid: 3 }, 'b'),
      ),
    ],
    dissent: { umoci: { refuses: "unknown typeflag '\\x67'", because: 'containerd passes over them' } },
  },
  {
    name: 'a global extended header with the name that GNU tar gives it',
    layers: [archive(tarMember({ path: '/tmp/GlobalHead.1.1', type: 'g' }, '13 uid=12345\n'), file('a'))],
    dissent: {
      umoci: { refuses: "unknown typeflag '\\x67'", because: 'containerd passes over them' },
      native: { 'tmp: missing': 'it makes the parents of a name that stands for no file' },
    },
  },
  {
    name: 'extended headers twice, repeated keywords, empty values, signs, and one behind the last member',
    layers: [
      archive(
        paxHeader([['uid', '5']]),
        paxHeader([['gid', '6']]),
        tarMember({ path: 'last-header-counts' }),
        paxHeader([
          ['path', 'first'],
          ['path', 'second'],
        ]),
        tarMember({ path: 'third' }),
        paxHeader([
          ['path', ''],
          ['linkpath', ''],
          ['uid', ''],
        ]),
        tarMember({ path: 'from-the-header', uid: 4 }),
        paxHeader([
          ['uid', '+5'],
          ['mtime', '+5.5'],
        ]),
        tarMember({ path: 'signed' }),
        paxHeader([['path', 'nothing']]),
      ),
    ],
  },
  {
    name: "GNU's long names: with junk behind the NUL, and before a pax name",
    layers: [
      archive(
        tarMember({ path: '././@LongLink', type: 'L', magic: GNU_MAGIC }, `${'n'.repeat(150)}\0junk\0`),
        tarMember({ path: 'n'.repeat(100), magic: GNU_MAGIC }, 'x'),
        tarMember({ path: '././@LongLink', type: 'K', magic: GNU_MAGIC }, `${'t'.repeat(150)}\0`),
        tarMember({ path: 'link', type: '2', linkTarget: 't', magic: GNU_MAGIC }),
        tarMember({ path: '././@LongLink', type: 'L', magic: GNU_MAGIC }, 'gnu\0'),
        paxHeader([['path', 'pax']]),
        tarMember({ path: 'x' }, 'x'),
      ),
    ],
  },
  {
    name: 'owners of more than 16, 21 and 31 bits, and without meaning',
    layers: [
      archive(
        file('a', '', { uid: 65_536, gid: 3_000_000 }),
        file('b', '', { uid: 2 ** 31 + 5, gid: 2 ** 32 - 2 }),
        tarMember({ path: 'c', uid: base256(3_000_000_000n, 8), gid: base256(70_000n, 8), magic: GNU_MAGIC }),
        file('minus-one', '', { uid: 2 ** 32 - 1, gid: 2 ** 32 - 1 }),
        tarMember({ path: 'minus-two', uid: base256(-2n, 8), gid: base256(-3n, 8), magic: GNU_MAGIC }),
        paxHeader([
          ['uid', '-2'],
          ['gid', '-1'],
        ]),
        tarMember({ path: 'minus-two-in-pax' }),
      ),
    ],
  },
  {
    name: 'times before 1970, after 2106, 2262 and any of ours, with nanoseconds',
    layers: [
      archive(
        file('before', '', { mtimeNs: -DAY_NS - 1n }),
        tarMember({ path: 'before-in-base-256', mtime: base256(-5n, 12), magic: GNU_MAGIC }),
        file('zero', '', { mtimeNs: 0n }),
        file('nanoseconds', '', { mtimeNs: 1_700_000_000_123_456_789n }),
        file('in-2255', '', { mtimeNs: 9_000_000_000n * SECOND_NS + 1n }),
        file('in-2300', '', { mtimeNs: 10_413_792_000n * SECOND_NS + 1n }),
        tarMember({ path: 'in-36812', mtime: base256(1n << 40n, 12), magic: GNU_MAGIC }),
        paxHeader([['mtime', '99999999999999999']]),
        tarMember({ path: 'never' }),
        { path: 'link', type: 'symlink', linkTarget: 'x', mtimeNs: 1_600_000_000_000_000_001n },
        dir('directory', { mtimeNs: 1_500_000_000_000_000_009n }),
      ),
    ],
    dissent: {
      umoci: { 'in-2300: mtimeNs': FAR_TIMES, 'in-36812: mtimeNs': FAR_TIMES, 'never: mtimeNs': FAR_TIMES },
      native: Object.fromEntries(
        ['before', 'before-in-base-256', 'in-2300', 'in-36812'].map((path) => [
          `${path}: mtimeNs`,
          BOUNDED_TIMES,
        ]),
      ),
    },
  },
  {
    name: 'modes: set-ID and sticky bits on all types, and symbolic links that claim one',
    layers: [
      archive(
        file('setuid', 'x', { mode: 0o6755, uid: 9 }),
        dir('setgid', { mode: 0o3777 }),
        { path: 'fifo', type: 'fifo', mode: 0o4711 },
        { path: 'null', type: 'character', deviceMajor: 1, deviceMinor: 3, mode: 0o1666 },
        { path: 'largest', type: 'block', deviceMajor: 4095, deviceMinor: 1_048_575 },
        { path: 'overlay-whiteout', type: 'character' },
        symlink('link', 'x', { mode: 0o4644 }),
        tarHeader({ path: 'with-type-bits', mode: 0o100640 }),
      ),
    ],
  },
  {
    name: 'extended attributes: binary, empty, large, capabilities, ACLs, and names of other systems',
    layers: [
      archive(
        file('binary', 'x', {
          xattrs: { 'user.bin': Buffer.from([0, 255, 10, 61]), 'user.caf\xe9': Buffer.from('v') },
        }),
        file('empty', 'x', { xattrs: { 'user.empty': Buffer.alloc(0) } }),
        file('large', 'x', {
          xattrs: { 'user.a': Buffer.alloc(65_535, 7), 'user.b': Buffer.alloc(60_000, 8) },
        }),
        file('capability', 'x', { mode: 0o4755, uid: 5, xattrs: { 'security.capability': FILE_CAPABILITY } }),
        file('acl', 'x', { mode: 0o674, xattrs: { 'system.posix_acl_access': ACCESS_ACL } }),
        dir('acls', { xattrs: { 'system.posix_acl_default': DEFAULT_ACL } }),
        file('foreign', 'x', { xattrs: { 'com.apple.x': Buffer.from('1'), 'user.k': Buffer.from('3') } }),
        paxHeader([['SCHILY.acl.access', 'user::rw-,user:5:rwx,group::r--,mask::rwx,other::r--']]),
        tarMember({ path: 'acl-in-words' }, 'x'),
      ),
    ],
    dissent: { umoci: { 'empty: xattrs': 'it loses empty values' } },
  },
  {
    name: "the host administrator's extended attributes, which could direct an overlay",
    layers: [
      archive(
        dir('d', { xattrs: { 'trusted.overlay.opaque': Buffer.from('y') } }),
        file('d/f', 'x', { xattrs: { 'trusted.a': Buffer.from('1') } }),
      ),
    ],
    dissent: { umoci: { 'd/f: xattrs': 'it sets them; containerd does not' } },
  },
  {
    name: "users' extended attributes where Linux has none",
    layers: [
      archive(symlink('link', 'x', { xattrs: { 'user.a': Buffer.from('1') } }), {
        path: 'fifo',
        type: 'fifo',
        xattrs: { 'user.a': Buffer.from('1') },
      }),
    ],
    dissent: { umoci: { refuses: 'operation not permitted', because: 'containerd passes over them' } },
  },
  {
    name: "libarchive's form of extended attributes, without star's",
    layers: [
      archive(
        paxHeader([['LIBARCHIVE.xattr.user.a%3Db', 'AP8K']]),
        tarMember({ path: 'alone' }, 'x'),
        paxHeader([
          ['SCHILY.xattr.user.a', 'plain'],
          ['LIBARCHIVE.xattr.user.a', 'AP8K'],
        ]),
        tarMember({ path: 'both' }, 'x'),
      ),
    ],
    also: 'bsdtar',
    dissent: {
      umoci: {
        'alone: xattrs': 'Go knows no other form; the archive says what it says, and libarchive reads it',
      },
      native: { 'alone: xattrs': 'the same' },
      bsdtar: { 'both: xattrs': "it takes the last record; what containerd sees is star's" },
    },
  },
  {
    name: 'types of long ago: a directory by its slash, and a file with a slash that is none',
    layers: [
      archive(tarHeader({ path: 'd/', type: '\0', magic: '' }), tarMember({ path: 'f/', type: '0' }, 'x')),
    ],
  },
  {
    name: 'types that Go does not read: contiguous files, dumped directories, volume labels',
    layers: [
      archive(
        tarMember({ path: 'contiguous', type: '7' }, 'x'),
        tarMember({ path: 'd/', type: 'D' }, 'Ya\0\0'),
        tarMember({ path: 'label', type: 'V' }),
      ),
    ],
    also: 'tar',
    dissent: {
      umoci: { refuses: "unknown typeflag '\\x37'", because: 'POSIX and GNU say what they are' },
      native: { refuses: 'unhandled tar header type 55', because: 'the same' },
    },
  },
  {
    name: 'sizes of what has no data',
    layers: [
      archive(
        tarHeader({ path: 'd/', type: '5', size: 4096 }),
        file('d/a'),
        tarHeader({ path: 'd/b', type: '1', linkTarget: 'd/a', size: 1000, mtime: 1_704_067_200 }),
        tarHeader({ path: 'd/c', type: '2', linkTarget: 'a', size: 1 }),
        file('d/e'),
      ),
    ],
  },
  { name: 'an archive of nothing', layers: [END_BLOCKS] },
  { name: 'an archive without a byte', layers: [archive(file('a')), Buffer.alloc(0)] },
  { name: 'empty layers between others', layers: [archive(file('a')), END_BLOCKS, archive(file('b'))] },
  { name: 'no zero blocks at the end', layers: [archive(file('a')).subarray(0, 1024)] },
  { name: 'one zero block at the end', layers: [archive(file('a')).subarray(0, 1536)] },
  { name: 'an end in the middle of the last padding', layers: [archive(file('a')).subarray(0, 513)] },
  {
    name: 'garbage behind the end, and another archive',
    layers: [Buffer.concat([archive(file('a')), Buffer.alloc(3000, 65), archive(file('b'))])],
  },
];

/** Layers that are refused: what is said of them, and what containerd thinks. */
import { archive, dir, file, hardlink, symlink } from './layer-cases.ts';
import { base256, GNU_MAGIC, paxHeader, tarHeader, tarMember } from './tar-blocks.ts';

export interface RefusedCase {
  readonly name: string;
  readonly layers: readonly Buffer[];
  readonly code: string;
  readonly message: RegExp;
  readonly containerd: Opinion;
}

/** What containerd does with it: also refuse it, take it though we do not (and why), or do damage when asked. */
type Opinion = 'refuses' | { readonly takes: string } | 'would fill the disk';

const refused = (
  name: string,
  code: string,
  message: RegExp,
  layers: Buffer | readonly Buffer[],
  containerd: Opinion = 'refuses',
): RefusedCase => ({
  name,
  layers: Buffer.isBuffer(layers) ? [layers] : layers,
  code,
  message,
  containerd,
});

const CLIMBS = { takes: 'it has the path end at the root; no honest archive holds such' };
const HOLDS = { takes: 'no file system of Linux holds it, it stores something else' };
const sparse = (size: string, map: string) =>
  paxHeader([
    ['GNU.sparse.size', size],
    ['GNU.sparse.numblocks', String(map.split(',').length / 2)],
    ['GNU.sparse.map', map],
  ]);

export const REFUSED_CASES: readonly RefusedCase[] = [
  refused(
    'a name that climbs out',
    'ERR_LAYER_CONFLICT',
    /'\.\.' in the layer: \.\.\/a/,
    archive(file('../a')),
    CLIMBS,
  ),
  refused(
    'a name that climbs within',
    'ERR_LAYER_CONFLICT',
    /'\.\.' in the layer: a\/\.\.\/b/,
    archive(dir('a'), file('a/../b')),
    CLIMBS,
  ),
  refused(
    'a hard link whose target climbs',
    'ERR_LAYER_CONFLICT',
    /'\.\.' in the layer/,
    archive(file('b'), hardlink('a', '../../b')),
    CLIMBS,
  ),
  refused(
    'a hard link to nothing',
    'ERR_LAYER_CONFLICT',
    /a links to b, which is not there/,
    archive(hardlink('a', 'b')),
  ),
  refused(
    'hard links to each other',
    'ERR_LAYER_CONFLICT',
    /which is not there/,
    archive(hardlink('a', 'b'), hardlink('b', 'a')),
  ),
  refused('a hard link to what the layer hides', 'ERR_LAYER_CONFLICT', /c links to a, which is not there/, [
    archive(file('a')),
    archive({ path: '.wh.a' }, hardlink('c', 'a')),
  ]),
  refused(
    'a hard link to a directory',
    'ERR_LAYER_CONFLICT',
    /to the directory d/,
    archive(dir('d'), hardlink('a', 'd')),
  ),
  refused(
    'a hard link in the place of what holds its target',
    'ERR_LAYER_CONFLICT',
    /replaces its own target/,
    archive(dir('d'), file('d/a'), hardlink('d', 'd/a')),
  ),
  refused(
    'a path through a file',
    'ERR_LAYER_CONFLICT',
    /parents is a file/,
    archive(file('e'), file('e/f')),
  ),
  refused('a path through a file below', 'ERR_LAYER_CONFLICT', /parents is a file/, [
    archive(file('e')),
    archive(file('e/f')),
  ]),
  refused(
    'a path through links without end',
    'ERR_LAYER_CONFLICT',
    /too many symbolic/,
    archive(symlink('e', 'e'), file('e/f')),
  ),
  refused('a whiteout of nothing', 'ERR_LAYER_CONFLICT', /names nothing: \.wh\./, archive(file('.wh.'))),
  refused(
    'a whiteout of the directory above',
    'ERR_LAYER_CONFLICT',
    /names nothing/,
    archive(file('d/.wh...')),
  ),
  refused(
    'a file in the place of the root',
    'ERR_LAYER_CONFLICT',
    /puts a file in the place of the root/,
    archive(file('.')),
    { takes: 'it passes over whatever stands for the root; umoci refuses it too' },
  ),
  refused(
    'a symbolic link to nothing',
    'ERR_TAR_CORRUPT',
    /without target/,
    archive(tarHeader({ path: 'a', type: '2' })),
  ),
  refused('a name of 256 bytes', 'ERR_LIMIT', /longer than 255 bytes/, archive(file('n'.repeat(256)))),
  refused(
    'a path of 4,097 bytes',
    'ERR_LIMIT',
    /longer than 4096 bytes/,
    archive(file(`${'n/'.repeat(2047)}nnn`)),
  ),
  refused(
    'an extended attribute of more than 65,535 bytes',
    'ERR_LIMIT',
    /xattr user\.a: .*65536 bytes/,
    archive(file('a', 'x', { xattrs: { 'user.a': Buffer.alloc(65_536) } })),
    { takes: 'EROFS counts the bytes of a value in 16 bits, the kernel holds one more' },
  ),
  refused(
    'an owner of more than 32 bits',
    'ERR_LIMIT',
    /a: its uid is beyond 4294967295: 4294967301/,
    archive(paxHeader([['uid', '4294967301']]), tarMember({ path: 'a' })),
    HOLDS,
  ),
  refused(
    'a device number that Linux does not have',
    'ERR_LIMIT',
    /device major is beyond 4095/,
    archive({ path: 'a', type: 'character', deviceMajor: 4096 }),
    HOLDS,
  ),
  refused(
    'a type that nobody knows',
    'ERR_UNSUPPORTED',
    /a: entry type "M"/,
    archive(tarMember({ path: 'a', type: 'M' })),
  ),
  refused(
    'a size that is negative',
    'ERR_TAR_CORRUPT',
    /size is negative/,
    archive(tarHeader({ path: 'a', size: base256(-1n, 12) })),
  ),
  refused(
    'a hole of an exabyte',
    'ERR_LIMIT',
    /a: .*beyond 2\^53/,
    archive(sparse(String(2n ** 60n), `${2n ** 60n},0`), tarHeader({ path: 'a' })),
    'would fill the disk',
  ),
  refused(
    'a hole of a petabyte',
    'ERR_LIMIT',
    /a: a file of 1125899906842624 bytes, at most 17592186044416/,
    archive(sparse(String(2n ** 50n), `${2n ** 50n},0`), tarHeader({ path: 'a' })),
    'would fill the disk',
  ),
  refused(
    'sparse pieces that overlap',
    'ERR_TAR_CORRUPT',
    /overlap/,
    archive(sparse('5000', '0,3,1,3'), tarMember({ path: 'a' }, 'abcdef')),
  ),
  refused(
    'an extended header that is broken',
    'ERR_TAR_CORRUPT',
    /broken record at its byte 9/,
    archive(tarMember({ type: 'x' }, '9 uid=12\n\0\0'), tarMember({ path: 'a' })),
  ),
  refused(
    'a name with a NUL',
    'ERR_TAR_CORRUPT',
    /NUL in its path/,
    archive(paxHeader([['path', 'a\0b']]), tarMember({ path: 'a' })),
  ),
  refused(
    'a wrong checksum',
    'ERR_TAR_CORRUPT',
    /at byte 1024: .*checksum/,
    Buffer.concat([archive(file('a')).subarray(0, 1024), Buffer.alloc(1024, 1)]),
  ),
  refused(
    'an end inside a file',
    'ERR_TAR_CORRUPT',
    /ends at byte 515, inside a/,
    archive(file('a', 'x'.repeat(600))).subarray(0, 515),
  ),
  refused(
    'a member behind half an end',
    'ERR_TAR_CORRUPT',
    /behind a block of zeros/,
    Buffer.concat([archive(file('a')).subarray(0, 1536), archive(file('b'))]),
  ),
  refused(
    'an old sparse header in a foreign dialect',
    'ERR_UNSUPPORTED',
    /type S/,
    archive(tarHeader({ path: 'a', type: 'S' })),
  ),
  refused(
    'an extended header of more than a mebibyte',
    'ERR_LIMIT',
    /extended header of 1048577 bytes/,
    archive(tarMember({ type: 'L', magic: GNU_MAGIC }, 'n'.repeat(1_048_577)), tarMember({ path: 'a' })),
  ),
];

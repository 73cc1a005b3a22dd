/** Archives with something of everything that a tar reader has to know, and changes that get past their checksums. */

import { base256, END_BLOCKS, GNU_MAGIC, paxHeader, tarHeader, tarMember } from '../support/tar-blocks.ts';
import { mutate, oddNumber } from './mutate.ts';
import type { Random } from './random.ts';

const BLOCK = 512;
/** Where the checksum stands in a header block, and where numbers do: offset and width. */
const CHECKSUM = [148, 156] as const;
const NUMBERS = [
  [100, 8],
  [108, 8],
  [116, 8],
  [124, 12],
  [124, 12],
  [136, 12],
  [329, 8],
  [337, 8],
  [386, 12],
  [398, 12],
  [483, 12],
] as const;
const TYPEFLAGS = [...'01234567xgLKDSVAM\0z'];
const NAMES = [
  '',
  '/',
  '.',
  '..',
  'a',
  './a',
  '/a',
  'a/',
  'd/f',
  'd/../f',
  'ln/x',
  '.wh.a',
  'd/.wh..wh..opq',
  '.wh.',
  '.wh..wh.plnk/1',
  '.wh..',
  'n'.repeat(100),
  '\xff\xfe',
  'a//b',
  'a\0b',
];
const RECORDS = [
  'path',
  'linkpath',
  'size',
  'uid',
  'gid',
  'mtime',
  'SCHILY.devmajor',
  'SCHILY.xattr.user.a',
  'LIBARCHIVE.xattr.user.b',
  'SCHILY.xattr.',
  'GNU.sparse.map',
  'GNU.sparse.size',
  'GNU.sparse.realsize',
  'GNU.sparse.major',
  'GNU.sparse.minor',
  'GNU.sparse.name',
  'GNU.sparse.offset',
  'GNU.sparse.numbytes',
  'comment',
];
const VALUES = [
  '',
  '0',
  '1',
  '-1',
  '3',
  '512',
  '4096',
  '1.5',
  '-0.000000001',
  '99999999999999999999',
  '9007199254740993',
  '0,1',
  '0,512,1024,512',
  '5,0',
  '1,,2',
  'a/b',
  '../x',
  '\0',
  'x'.repeat(300),
  '\xff',
];

/** Well-formed archives. */
export function archives(): Buffer[] {
  return [features(), sparse(), layering()];
}

function features(): Buffer {
  return Buffer.concat([
    paxHeader(
      [
        ['mtime', '1700000000.25'],
        ['comment', 'global'],
      ],
      'g',
    ),
    tarMember({ path: 'd/', type: '5', mode: 0o755 }),
    tarMember({ path: 'd/empty' }),
    tarMember({ path: 'd/one', prefix: 'pre/fix' }, 'x'.repeat(4097)),
    paxHeader([
      ['path', `d/${'long'.repeat(60)}`],
      ['uid', '3000000000'],
      ['SCHILY.xattr.user.a', Buffer.from([0, 255, 10, 61])],
      ['LIBARCHIVE.xattr.user.b%3D', 'aGFsbG8='],
    ]),
    tarMember({ path: 'short' }, 'pax'),
    tarMember({ path: '././@LongLink', type: 'L', magic: GNU_MAGIC }, `${'gnu/'.repeat(80)}name\0`),
    tarMember({ path: 'gnu', magic: GNU_MAGIC, uid: base256(70_000n, 8), mtime: base256(-1n, 12) }, 'gnu'),
    tarMember({ path: '././@LongLink', type: 'K', magic: GNU_MAGIC }, `${'target/'.repeat(40)}\0`),
    tarMember({ path: 'sym', type: '2', magic: GNU_MAGIC, linkTarget: 'short' }),
    tarMember({ path: 'hard', type: '1', linkTarget: 'pre/fix/d/one' }),
    tarMember({ path: 'null', type: '3', deviceMajor: 1, deviceMinor: 3 }),
    tarMember({ path: 'disk', type: '4', deviceMajor: 8, deviceMinor: 70_000 }),
    tarMember({ path: 'fifo', type: '6' }),
    tarMember({ path: 'label', type: 'V', magic: GNU_MAGIC }),
    tarMember({ path: 'v7dir/', magic: '' }),
    tarMember({ path: 'dump/', type: 'D', magic: GNU_MAGIC }, 'Yone\0\0'),
    END_BLOCKS,
    Buffer.from('garbage behind the end'),
  ]);
}

function sparse(): Buffer {
  const data = Buffer.alloc(1024, 's');
  const map10 = Buffer.alloc(BLOCK);
  map10.write('2\n0\n512\n8192\n512\n');
  const extents = new Map([
    [386, Buffer.concat([octal(0), octal(512), octal(8192), octal(512)])],
    [483, octal(10_000)],
  ]);
  const continued = new Map([...extents, [482, Buffer.from([1])]]);
  const more = Buffer.alloc(BLOCK);
  octal(9000).copy(more, 0);
  octal(512).copy(more, 12);
  return Buffer.concat([
    paxHeader([
      ['GNU.sparse.size', '10000'],
      ['GNU.sparse.numblocks', '2'],
      ['GNU.sparse.offset', '0'],
      ['GNU.sparse.numbytes', '512'],
      ['GNU.sparse.offset', '8192'],
      ['GNU.sparse.numbytes', '512'],
    ]),
    tarMember({ path: 'sparse00' }, data),
    paxHeader([
      ['GNU.sparse.size', '10000'],
      ['GNU.sparse.name', 'sparse01'],
      ['GNU.sparse.map', '0,512,8192,512'],
    ]),
    tarMember({ path: 'x' }, data),
    paxHeader([
      ['GNU.sparse.major', '1'],
      ['GNU.sparse.minor', '0'],
      ['GNU.sparse.name', 'sparse10'],
      ['GNU.sparse.realsize', '10000'],
    ]),
    tarMember({ path: 'x' }, Buffer.concat([map10, data])),
    tarMember({ path: 'old', type: 'S', magic: GNU_MAGIC, patches: extents }, data),
    tarHeader({ path: 'older', type: 'S', magic: GNU_MAGIC, patches: continued, size: 1536 }),
    more,
    Buffer.alloc(1536, 'o'),
    END_BLOCKS,
  ]);
}

function layering(): Buffer {
  return Buffer.concat([
    tarMember({ path: './', type: '5', mode: 0o755 }),
    tarMember({ path: './a' }, 'a'),
    tarMember({ path: 'ln', type: '2', linkTarget: 'd' }),
    tarMember({ path: 'ln/x' }, 'through a link'),
    tarMember({ path: 'd/.wh..wh..opq' }),
    tarMember({ path: '.wh.gone' }),
    tarMember({ path: 'early', type: '1', linkTarget: 'late' }),
    tarMember({ path: '/late' }, 'late'),
    tarMember({ path: 'a', type: '5' }),
    tarMember({ path: 'a/deep/er/file' }, 'z'.repeat(9000)),
    END_BLOCKS,
  ]);
}

/** Changes an archive; most of the time its header blocks have right checksums again. */
export function mutateArchive(archive: Buffer, random: Random, other: Buffer): Buffer {
  const headers = headerOffsets(archive);
  let changed: Buffer = Buffer.from(archive);
  if (!random.oneIn(4)) {
    for (let changes = 1 + random.below(3); changes > 0; changes--)
      changed = changeHeader(changed, headers, random);
  }
  if (random.oneIn(2)) {
    const hot = headers.map((at) => [at, at + BLOCK] as const);
    changed = mutate(changed, random, { other, hot });
  }
  if (!random.oneIn(8)) restoreChecksums(changed, headers);
  return changed;
}

function changeHeader(archive: Buffer, headers: readonly number[], random: Random): Buffer {
  const at = headers.length === 0 ? 0 : random.pick(headers);
  if (at + BLOCK > archive.length) return archive;
  const block = archive.subarray(at, at + BLOCK);
  switch (random.below(6)) {
    case 0:
    case 1: {
      const [offset, width] = random.pick(NUMBERS);
      const number = oddNumber(random, random.pick([9, 16, 24, 33, 64]));
      const text = number.toString(8).padStart(width - 1, '0');
      const field =
        text.length < width && !random.oneIn(4) ? Buffer.from(`${text}\0`) : base256(number, width);
      field.copy(block, offset);
      return archive;
    }
    case 2:
      block.write(random.pick(TYPEFLAGS), 156, 1, 'latin1');
      return archive;
    case 3: {
      const start = random.pick([0, 157, 345]);
      block.fill(0, start, start + 100);
      block.write(random.pick(NAMES), start, 100, 'latin1');
      return archive;
    }
    case 4:
      block.write(random.pick(['ustar\x0000', GNU_MAGIC, '\0\0\0\0\0\0\0\0']), 257, 8, 'latin1');
      return archive;
    default: {
      const records = Array.from(
        { length: 1 + random.below(4) },
        () => [random.pick(RECORDS), random.pick(VALUES)] as const,
      );
      const header = paxHeader(records, random.oneIn(5) ? 'g' : 'x');
      return Buffer.concat([archive.subarray(0, at), header, archive.subarray(at)]);
    }
  }
}

/** Blocks that say of themselves that they are headers, and those that `known` says were. */
function restoreChecksums(archive: Buffer, known: readonly number[]): void {
  const wasHeader = new Set(known);
  for (let at = 0; at + BLOCK <= archive.length; at += BLOCK) {
    const block = archive.subarray(at, at + BLOCK);
    if (block.toString('latin1', 257, 262) !== 'ustar' && !wasHeader.has(at)) continue;
    if (block.every((byte) => byte === 0)) continue;
    restoreTarChecksum(block);
  }
}

/** Makes the checksum of a header block (512 bytes) right. */
export function restoreTarChecksum(block: Buffer): void {
  if (block.length < BLOCK) return;
  block.write(`${checksum(block).toString(8).padStart(6, '0')}\0 `, CHECKSUM[0], 'latin1');
}

function headerOffsets(archive: Buffer): number[] {
  const offsets: number[] = [];
  for (let at = 0; at + BLOCK <= archive.length; at += BLOCK) {
    const block = archive.subarray(at, at + BLOCK);
    if (Number.parseInt(block.toString('latin1', ...CHECKSUM), 8) === checksum(block)) offsets.push(at);
  }
  return offsets;
}

function checksum(block: Buffer): number {
  let sum = 8 * 0x20;
  for (let at = 0; at < BLOCK; at++) if (at < CHECKSUM[0] || at >= CHECKSUM[1]) sum += block[at]!;
  return sum;
}

function octal(value: number): Buffer {
  return Buffer.from(`${value.toString(8).padStart(11, '0')}\0`);
}

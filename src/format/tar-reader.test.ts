import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  base256,
  END_BLOCKS,
  GNU_MAGIC,
  paxHeader,
  paxRecord,
  tarHeader,
  tarMember,
} from '../../test/support/tar-blocks.ts';
import { type CollectedEntry, collectTar } from '../../test/support/tar-events.ts';
import { FormatError, type FormatErrorCode } from './errors.ts';
import type { TarEntry } from './tar-entry.ts';
import { MAX_EXTENDED_HEADER_BYTES } from './tar-pax.ts';
import { TarReader } from './tar-reader.ts';
import { MAX_FILE_BYTES } from './tar-sparse.ts';

const archive = (...parts: Buffer[]) => Buffer.concat([...parts, END_BLOCKS]);
const only = (...parts: Buffer[]): CollectedEntry => {
  const entries = collectTar(archive(...parts));
  expect(entries).toHaveLength(1);
  return entries[0]!;
};
const errorOf = (bytes: Buffer): FormatError => {
  try {
    collectTar(bytes);
  } catch (error) {
    if (error instanceof FormatError) return error;
    throw error;
  }
  throw new Error('no error');
};
const expectError = (code: FormatErrorCode, message: RegExp, ...parts: Buffer[]) => {
  const error = errorOf(archive(...parts));
  expect(error.code).toBe(code);
  expect(error.message).toMatch(message);
};

describe('TarReader: header blocks', () => {
  it('reads the fields of a ustar header', () => {
    const { entry, content } = only(
      tarMember({ path: 'a', mode: 0o100755, uid: 1, gid: 2, mtime: 1_000_000_000 }, 'hello'),
    );
    expect(entry).toEqual({
      path: 'a',
      type: 'file',
      size: 5,
      mode: 0o755,
      uid: 1,
      gid: 2,
      mtimeSeconds: 1_000_000_000,
      mtimeNanoseconds: 0,
      linkTarget: '',
      deviceMajor: 0,
      deviceMinor: 0,
      xattrs: new Map(),
    } satisfies TarEntry);
    expect(content.toString()).toBe('hello');
  });

  it('joins the ustar prefix, but takes none from v7, GNU or the tail of a star prefix', () => {
    const patches = new Map([[508, Buffer.from('tar\0')]]);
    expect(only(tarHeader({ path: 'b', prefix: 'a' })).entry.path).toBe('a/b');
    expect(only(tarHeader({ path: 'b', prefix: 'a', magic: '' })).entry.path).toBe('b');
    expect(only(tarHeader({ path: 'b', prefix: '01234567012', magic: GNU_MAGIC })).entry.path).toBe('b');
    expect(only(tarHeader({ path: 'b', prefix: 'p'.repeat(155), patches })).entry.path).toBe(
      `${'p'.repeat(131)}/b`,
    );
  });

  it('reads the prefix that Docker of 2016 wrote into GNU headers', () => {
    const header = tarHeader({ path: 'b', prefix: 'usr/share/doc/some-package', magic: GNU_MAGIC });
    expect(only(header).entry.path).toBe('usr/share/doc/some-package/b');
  });

  it('reads names that fill their field, without a NUL', () => {
    const path = 'n'.repeat(100);
    expect(only(tarHeader({ path, type: '2', linkTarget: path })).entry).toMatchObject({
      path,
      linkTarget: path,
    });
  });

  it.each([
    ['0', 'file'],
    ['\0', 'file'],
    ['7', 'file'],
    ['1', 'hardlink'],
    ['2', 'symlink'],
    ['3', 'character'],
    ['4', 'block'],
    ['5', 'directory'],
    ['6', 'fifo'],
    ['D', 'directory'],
  ])('reads type %j as %s', (type, expected) => {
    const header = tarHeader({ path: 'a', type, linkTarget: 'b', deviceMajor: 0, deviceMinor: 0 });
    expect(only(header).entry.type).toBe(expected);
  });

  it.each([
    ['\0', 'directory'],
    ['0', 'file'],
    ['7', 'file'],
  ])(
    'takes a name that ends in a slash for a directory only where there was no type for one (type %j)',
    (type, expected) => {
      expect(only(tarHeader({ path: 'a/', type, magic: '' })).entry.type).toBe(expected);
    },
  );

  it('gives symbolic links the mode that Linux gives them', () => {
    expect(only(tarHeader({ path: 'a', type: '2', linkTarget: 'b', mode: 0o644 })).entry.mode).toBe(0o777);
    expect(only(tarHeader({ path: 'a', type: '1', linkTarget: 'b', mode: 0o644 })).entry.mode).toBe(0o644);
  });

  it('takes owners as lchown(2) does: negative ones without their sign, and -1 for root', () => {
    const owners = (uid: string, gid: string) => {
      const { entry } = only(
        paxHeader([
          ['uid', uid],
          ['gid', gid],
        ]),
        tarHeader({ path: 'a', uid: 7, gid: 7 }),
      );
      return [entry.uid, entry.gid];
    };
    expect(owners('-2', '-2147483648')).toEqual([0xffff_fffe, 0x8000_0000]);
    expect(owners('-1', '4294967295')).toEqual([0, 0]);
    expect(owners('+5', '4294967294')).toEqual([5, 0xffff_fffe]);
    const header = tarHeader({ path: 'a', uid: base256(-2n, 8), gid: base256(-1n, 8), magic: GNU_MAGIC });
    expect(only(header).entry).toMatchObject({ uid: 0xffff_fffe, gid: 0 });
    expectError(
      'ERR_TAR_CORRUPT',
      /gid is negative/,
      paxHeader([['gid', '-2147483649']]),
      tarHeader({ path: 'a' }),
    );
  });

  it('gives devices their numbers, and does not look at those of other types', () => {
    const device = { path: 'a', deviceMajor: 0o10, deviceMinor: 0o3 };
    expect(only(tarHeader({ ...device, type: '3' })).entry).toMatchObject({ deviceMajor: 8, deviceMinor: 3 });
    const junk = { path: 'a', deviceMajor: Buffer.from('whatever') };
    expect(only(tarHeader({ ...junk, type: '0' })).entry).toMatchObject({ deviceMajor: 0, deviceMinor: 0 });
    expect(only(tarHeader({ ...junk, type: '3', magic: '' })).entry).toMatchObject({ deviceMajor: 0 });
    expectError('ERR_TAR_CORRUPT', /device major is not a number/, tarHeader({ ...junk, type: '3' }));
    const big = paxHeader([
      ['SCHILY.devmajor', '259'],
      ['SCHILY.devminor', '1048575'],
    ]);
    expect(only(big, tarHeader({ ...device, type: '4' })).entry).toMatchObject({
      deviceMajor: 259,
      deviceMinor: 1_048_575,
    });
    expectError('ERR_LIMIT', /device major/, tarHeader({ ...device, type: '3', deviceMajor: 4096 }));
  });

  it.each(['1', '2', '3', '4', '5', '6'])('takes no data for type %s, whatever its size says', (type) => {
    const entries = collectTar(
      archive(tarHeader({ path: 'a', type, size: 1000, linkTarget: 'b' }), tarHeader({ path: 'next' })),
    );
    expect(entries.map(({ entry }) => [entry.path, entry.size])).toEqual([
      ['a', 0],
      ['next', 0],
    ]);
  });

  it("passes over volume headers and the list in GNU's dump directories", () => {
    const entries = collectTar(
      archive(
        tarMember({ path: 'label', type: 'V' }),
        tarMember({ path: 'label', type: 'V' }, 'x'),
        tarMember({ path: 'dir/', type: 'D' }, 'Ya\0Yb\0\0'),
        tarHeader({ path: 'next' }),
      ),
    );
    expect(entries.map(({ entry }) => entry.path)).toEqual(['dir/', 'next']);
  });

  it('names the type that it does not read', () => {
    expectError(
      'ERR_UNSUPPORTED',
      /byte 512, a: entry type "M"/,
      tarHeader({ path: 'b' }),
      tarHeader({ path: 'a', type: 'M' }),
    );
  });

  it('reads base-256 numbers, also negative ones', () => {
    const header = tarHeader({
      path: 'a',
      uid: base256(3_000_000n, 8),
      gid: base256(0xffff_fffen, 8),
      mtime: base256(-86_400n, 12),
      magic: GNU_MAGIC,
    });
    expect(only(header).entry).toMatchObject({ uid: 3_000_000, gid: 0xffff_fffe, mtimeSeconds: -86_400 });
  });

  it('reads octal numbers with spaces around them, and empty fields as 0', () => {
    const header = tarHeader({
      path: 'a',
      uid: Buffer.from('   17 \0\0'),
      gid: Buffer.from('12345670'),
      mtime: Buffer.alloc(12),
    });
    expect(only(header).entry).toMatchObject({ uid: 0o17, gid: 0o12345670, mtimeSeconds: 0 });
  });

  it('refuses numbers that are none, negative or beyond what can be counted', () => {
    expectError(
      'ERR_TAR_CORRUPT',
      /size is not a number/,
      tarHeader({ path: 'a', size: Buffer.from('12x4') }),
    );
    expectError(
      'ERR_TAR_CORRUPT',
      /mode is not a number/,
      tarHeader({ path: 'a', mode: Buffer.from('0000 44') }),
    );
    expectError('ERR_TAR_CORRUPT', /size is negative/, tarHeader({ path: 'a', size: base256(-1n, 12) }));
    expectError('ERR_LIMIT', /size is beyond/, tarHeader({ path: 'a', size: base256(1n << 60n, 12) }));
    expectError('ERR_LIMIT', /uid is beyond/, tarHeader({ path: 'a', uid: base256(1n << 32n, 8) }));
    for (const type of ['x', 'V']) {
      expectError(
        'ERR_TAR_CORRUPT',
        /size is negative/,
        tarHeader({ path: 'a', type, size: base256(-1n, 12) }),
      );
    }
  });

  it('checks the checksum, and takes the sum of signed bytes too', () => {
    const header = tarHeader({ path: 'caf\xe9', signedChecksum: true });
    expect(only(header).entry.path).toBe('caf\xe9');
    header[0] = header[0]! ^ 1;
    expectError('ERR_TAR_CORRUPT', /at byte 512: .*checksum/, tarHeader({ path: 'a' }), header);
  });
});

describe('TarReader: where an archive ends', () => {
  const member = tarMember({ path: 'a' }, 'hello');

  it('ignores what stands behind two zero blocks', () => {
    expect(collectTar(Buffer.concat([archive(member), Buffer.alloc(10_000, 0x61), member]))).toHaveLength(1);
  });

  it('refuses a single zero block between members, behind which other readers see nothing or more', () => {
    expectError(
      'ERR_TAR_CORRUPT',
      /byte 1536: a member behind a block of zeros/,
      member,
      Buffer.alloc(512),
      member,
    );
  });

  it('takes an extended header without its entry for an end too', () => {
    const pax = paxHeader([['path', 'b']]);
    expect(collectTar(Buffer.concat([member, pax]))).toHaveLength(1);
    expect(collectTar(archive(member, pax))).toHaveLength(1);
  });

  it.each([
    ['no zero blocks', member],
    ['one zero block', Buffer.concat([member, Buffer.alloc(512)])],
    ['no padding behind the last file', member.subarray(0, 517)],
  ])('takes %s for an end', (_, bytes) => {
    expect(collectTar(bytes)).toHaveLength(1);
  });

  it('takes nothing at all for an empty archive', () => {
    expect(collectTar(Buffer.alloc(0))).toEqual([]);
  });

  it('names the file in which the archive is cut short, and where', () => {
    const error = errorOf(Buffer.concat([member, member.subarray(0, 514)]));
    expect(error).toMatchObject({ code: 'ERR_TAR_CORRUPT' });
    expect(error.message).toBe('tar archive: it ends at byte 1538, inside a, whose header is at 1024');
  });

  it('finds archives cut short in a header, an extended header or a volume header', () => {
    const pax = paxHeader([['path', 'b']]);
    const cuts: [Buffer, RegExp][] = [
      [member.subarray(0, 100), /inside a header/],
      [pax.subarray(0, 515), /inside an extended header/],
      [tarHeader({ path: 'a', type: 'V', size: 3 }), /inside a volume header/],
    ];
    for (const [bytes, message] of cuts) {
      const error = errorOf(bytes);
      expect(error.code).toBe('ERR_TAR_CORRUPT');
      expect(error.message).toMatch(message);
    }
  });
});

describe('TarReader: extended headers', () => {
  it('puts pax records in the place of the header fields', () => {
    const { entry, content } = only(
      paxHeader([
        ['path', 'p\xff=\n/x'],
        ['size', '3'],
        ['uid', '4294967294'],
        ['gid', '3000000'],
        ['mtime', '1700000000.123456789'],
        ['comment', 'nothing'],
      ]),
      tarMember({ path: 'a', size: 0 }, 'abc'),
    );
    expect(entry).toMatchObject({
      path: 'p\xff=\n/x',
      size: 3,
      uid: 0xffff_fffe,
      gid: 3_000_000,
      mtimeSeconds: 1_700_000_000,
      mtimeNanoseconds: 123_456_789,
    });
    expect(content.toString()).toBe('abc');
  });

  it.each([
    ['-1.5', -2, 500_000_000],
    ['-1', -1, 0],
    ['-0.000000001', -1, 999_999_999],
    ['0.1', 0, 100_000_000],
    ['5.', 5, 0],
    ['1.99999999999', 1, 999_999_999],
    ['+1.5', 1, 500_000_000],
    ['-99999999999999999.5', 0, 0],
  ])('reads the time %s', (mtime, mtimeSeconds, mtimeNanoseconds) => {
    expect(only(paxHeader([['mtime', mtime]]), tarHeader({ path: 'a' })).entry).toMatchObject({
      mtimeSeconds,
      mtimeNanoseconds,
    });
  });

  it('reads binary, empty and large xattrs', () => {
    const binary = Buffer.from([0, 0xff, 0x0a, 0x3d, 0x80]);
    const large = Buffer.alloc(65_536, 7);
    const { xattrs } = only(
      paxHeader([
        ['SCHILY.xattr.security.capability', binary],
        ['SCHILY.xattr.user.empty', ''],
        ['SCHILY.xattr.user.caf\xe9', large],
      ]),
      tarHeader({ path: 'a' }),
    ).entry;
    expect(xattrs).toEqual(
      new Map([
        ['security.capability', binary],
        ['user.empty', Buffer.alloc(0)],
        ['user.caf\xe9', large],
      ]),
    );
  });

  it("reads libarchive's xattrs: the name URL-encoded, the value in base64 without padding", () => {
    const { xattrs } = only(
      paxHeader([['LIBARCHIVE.xattr.user.a%3Db', 'AP8K']]),
      tarHeader({ path: 'a' }),
    ).entry;
    expect(xattrs).toEqual(new Map([['user.a=b', Buffer.from([0, 0xff, 0x0a])]]));
  });

  it("takes star's form of an xattr where there are both, in any order", () => {
    const records: [string, string][] = [
      ['LIBARCHIVE.xattr.user.a', 'AP8K'],
      ['SCHILY.xattr.user.a', 'x'],
    ];
    for (const both of [records, records.toReversed()]) {
      const { xattrs } = only(paxHeader(both), tarHeader({ path: 'a' })).entry;
      expect(xattrs).toEqual(new Map([['user.a', Buffer.from('x')]]));
    }
  });

  it.each([
    ['0', ['user.a', 'security.b', 'system.posix_acl_access']],
    ['5', ['user.a', 'security.b', 'system.posix_acl_access']],
    ['2', ['security.b', 'system.posix_acl_access']],
    ['3', ['security.b', 'system.posix_acl_access']],
    ['6', ['security.b', 'system.posix_acl_access']],
  ])('leaves out the xattrs that no unpacker sets on type %s', (type, kept) => {
    const names = ['trusted.overlay.opaque', 'user.a', 'trusted.b', 'security.b', 'system.posix_acl_access'];
    const pax = paxHeader(names.map((name) => [`SCHILY.xattr.${name}`, 'x']));
    expect([...only(pax, tarHeader({ path: 'a', type, linkTarget: 'b' })).entry.xattrs.keys()]).toEqual(kept);
  });

  it('applies a header to the next entry only, and a global one to none', () => {
    const entries = collectTar(
      archive(
        paxHeader(
          [
            ['uid', '7'],
            ['path', 'elsewhere'],
            ['SCHILY.xattr.user.g', 'global'],
          ],
          'g',
        ),
        paxHeader([['uid', '8']]),
        tarHeader({ path: 'a', uid: 1 }),
        tarHeader({ path: 'b', uid: 1 }),
        paxHeader([['gid', '9']], 'g'),
        paxHeader([['uid', '']]),
        tarHeader({ path: 'c', uid: 1 }),
      ),
    );
    expect(entries.map(({ entry }) => [entry.path, entry.uid, entry.gid, entry.xattrs.size])).toEqual([
      ['a', 8, 0, 0],
      ['b', 1, 0, 0],
      ['c', 1, 0, 0],
    ]);
    expectError(
      'ERR_TAR_CORRUPT',
      /broken record/,
      tarMember({ type: 'g' }, 'uid=1\n'),
      tarHeader({ path: 'a' }),
    );
  });

  it("reads GNU's long names and link targets", () => {
    const path = `d/${'n'.repeat(300)}`;
    const linkTarget = 't'.repeat(300);
    const { entry } = only(
      tarMember({ path: '././@LongLink', type: 'K', magic: GNU_MAGIC }, `${linkTarget}\0`),
      tarMember({ path: '././@LongLink', type: 'L', magic: GNU_MAGIC }, `${path}\0`),
      tarHeader({ path: path.slice(0, 100), type: '2', linkTarget: 't', magic: GNU_MAGIC }),
    );
    expect(entry).toMatchObject({ path, linkTarget });
  });

  it.each([
    ['a record without a length', ' path=a\n'],
    ['a length that leaves the body', '99 path=a\n'],
    ['a length that ends inside the record', '7 path=a\n'],
    ['a length that does not reach the value', '3 path=a\n'],
    ['a record that does not end in a line feed', '8 path=a9 uid=12\n'],
    ['a record without "="', '8 pathx\n'],
    ['a record without keyword', '6 =ab\n'],
    ['a path with a NUL', paxRecord('path', 'a\0b').toString('latin1')],
    ['a time that is none', paxRecord('mtime', '1e5').toString('latin1')],
    ['a uid that is no number', paxRecord('uid', '1-').toString('latin1')],
    ['a size that is negative', paxRecord('size', '-1').toString('latin1')],
    ['an xattr without name', paxRecord('SCHILY.xattr.', 'x').toString('latin1')],
    ['an xattr with a NUL in its name', paxRecord('SCHILY.xattr.a\0', 'x').toString('latin1')],
  ])('refuses %s', (_, body) => {
    expectError('ERR_TAR_CORRUPT', /./, tarMember({ type: 'x' }, body), tarHeader({ path: 'a' }));
  });

  it('reads a long name up to its first NUL', () => {
    expect(only(tarMember({ type: 'L' }, 'ab\0junk\0'), tarHeader({ path: 'a' })).entry.path).toBe('ab');
  });

  it('refuses a link target with a NUL, and links without target', () => {
    expectError(
      'ERR_TAR_CORRUPT',
      /NUL/,
      paxHeader([['linkpath', 'a\0']]),
      tarHeader({ path: 'a', type: '2' }),
    );
    expectError('ERR_TAR_CORRUPT', /without target/, tarHeader({ path: 'a', type: '1' }));
  });

  it('bounds what it keeps of extended headers', () => {
    const value = Buffer.alloc(MAX_EXTENDED_HEADER_BYTES - 100);
    expect(
      only(paxHeader([['SCHILY.xattr.user.a', value]]), tarHeader({ path: 'a' })).entry.xattrs.size,
    ).toBe(1);
    expectError(
      'ERR_LIMIT',
      /extended header of 1048577 bytes/,
      tarHeader({ path: 'a', type: 'x', size: MAX_EXTENDED_HEADER_BYTES + 1 }),
    );
  });
});

describe('TarReader: sparse files', () => {
  const data = Buffer.from('abcdef');
  const expectSparse = (...parts: Buffer[]) => {
    const { entry, content, holeBytes } = only(...parts);
    expect(entry).toMatchObject({ path: 'real', type: 'file', size: 5000 });
    expect(holeBytes).toBe(4994);
    const expected = Buffer.alloc(5000);
    expected.write('abc', 1000);
    expected.write('def', 4000);
    expect(content.equals(expected)).toBe(true);
  };
  const field = (value: number) => `${value.toString(8).padStart(11, '0')}\0`;
  const oldGnu = (map: string, realSize: number, extended = 0) =>
    tarHeader({
      path: 'real',
      type: 'S',
      magic: GNU_MAGIC,
      size: 6,
      patches: new Map([
        [386, Buffer.from(map)],
        [482, Buffer.from([extended])],
        [483, Buffer.from(field(realSize))],
      ]),
    });
  const filled = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(512 - (bytes.length % 512))]);

  it('reads pax formats 0.0, 0.1 and 1.0', () => {
    expectSparse(
      paxHeader([
        ['GNU.sparse.size', '5000'],
        ['GNU.sparse.numblocks', '2'],
        ['GNU.sparse.offset', '1000'],
        ['GNU.sparse.numbytes', '3'],
        ['GNU.sparse.offset', '4000'],
        ['GNU.sparse.numbytes', '3'],
      ]),
      tarMember({ path: 'real' }, data),
    );
    expectSparse(
      paxHeader([
        ['GNU.sparse.name', 'real'],
        ['GNU.sparse.size', '5000'],
        ['GNU.sparse.map', '1000,3,4000,3,5000,0'],
      ]),
      tarMember({ path: 'GNUSparseFile.1/real' }, data),
    );
    const map = filled(Buffer.from('2\n1000\n3\n4000\n3\n'));
    expectSparse(
      paxHeader([
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', 'real'],
        ['GNU.sparse.realsize', '5000'],
      ]),
      tarMember({ path: 'GNUSparseFile.1/real' }, Buffer.concat([map, data])),
    );
  });

  it("reads GNU's old format, with and without extension blocks", () => {
    const first = field(1000) + field(3);
    const second = field(4000) + field(3);
    expectSparse(oldGnu(first + second, 5000), filled(data));
    const extension = Buffer.alloc(512);
    extension.write(second);
    expectSparse(oldGnu(first, 5000, 1), extension, filled(data));
    extension[504] = 1;
    expectSparse(oldGnu(first, 5000, 1), extension, Buffer.alloc(512), filled(data));
  });

  it('reads a file of one hole', () => {
    const { content, holeBytes } = only(
      paxHeader([
        ['GNU.sparse.size', '700'],
        ['GNU.sparse.map', '700,0'],
      ]),
      tarHeader({ path: 'a' }),
    );
    expect(holeBytes).toBe(700);
    expect(content.equals(Buffer.alloc(700))).toBe(true);
  });

  it('bounds the size that a map of a few bytes can claim', () => {
    const claim = (size: number) =>
      paxHeader([
        ['GNU.sparse.size', String(size)],
        ['GNU.sparse.map', `${size},0`],
      ]);
    const holes: number[] = [];
    const reader = new TarReader({ entry() {}, data() {}, hole: (bytes) => holes.push(bytes), end() {} });
    reader.write(archive(claim(MAX_FILE_BYTES), tarHeader({ path: 'a' })));
    expect(holes).toEqual([MAX_FILE_BYTES]);
    expectError(
      'ERR_LIMIT',
      /a: a file of 17592186044417 bytes/,
      claim(MAX_FILE_BYTES + 1),
      tarHeader({ path: 'a' }),
    );
    expectError('ERR_LIMIT', /beyond 2\^53/, claim(2 ** 60), tarHeader({ path: 'a' }));
    const plain = tarHeader({ path: 'a', size: base256(1n << 45n, 12) });
    expectError('ERR_LIMIT', /a: a file of/, plain);
    const realSize = new Map([[483, base256(1n << 45n, 12)]]);
    const old = tarHeader({ path: 'a', type: 'S', magic: GNU_MAGIC, patches: realSize });
    expectError('ERR_LIMIT', /a: a file of/, old);
  });

  it.each([
    ['pieces that overlap', '5,3,7,3'],
    ['pieces that go backwards', '500,3,100,3'],
    ['pieces outside the file', '0,3,4998,3'],
    ['less data than the archive has', '0,5'],
    ['more data than the archive has', '0,7'],
    ['a piece without length', '0,6,7'],
    ['a number that is none', '0,6,x,0'],
  ])('refuses a map with %s', (_, map) => {
    const pax = paxHeader([
      ['GNU.sparse.size', '5000'],
      ['GNU.sparse.map', map],
    ]);
    expectError('ERR_TAR_CORRUPT', /real: /, pax, tarMember({ path: 'real' }, data));
  });

  it('refuses maps that are broken, endless, of another version, or in a foreign header', () => {
    const version = (minor: string) =>
      paxHeader([
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', minor],
        ['GNU.sparse.realsize', '5000'],
      ]);
    expectError('ERR_UNSUPPORTED', /sparse format 1.7/, version('7'), tarMember({ path: 'a' }, data));
    expectError('ERR_TAR_CORRUPT', /does not end/, version('0'), tarMember({ path: 'a' }, '2\n1000\n3\n'));
    expectError('ERR_TAR_CORRUPT', /line too long/, version('0'), tarMember({ path: 'a' }, '1'.repeat(512)));
    expectError('ERR_TAR_CORRUPT', /not a number/, version('0'), tarMember({ path: 'a' }, 'x\n'.repeat(256)));
    expectError(
      'ERR_LIMIT',
      /more than 262144 pieces/,
      version('0'),
      tarMember({ path: 'a' }, '262145\n'.repeat(99)),
    );
    expectError('ERR_UNSUPPORTED', /type S/, tarHeader({ path: 'a', type: 'S' }));
    expectError(
      'ERR_TAR_CORRUPT',
      /out of turn/,
      paxHeader([['GNU.sparse.numbytes', '3']]),
      tarHeader({ path: 'a' }),
    );
  });
});

/** An archive with something of everything. */
const varied = archive(
  paxHeader([['SCHILY.xattr.user.g', 'global']], 'g'),
  tarHeader({ path: 'dir/', type: '5' }),
  paxHeader([
    ['path', `long/${'x'.repeat(200)}`],
    ['SCHILY.xattr.user.a', Buffer.from([0, 10, 61])],
  ]),
  tarMember({ path: 'short' }, 'q'.repeat(700)),
  tarMember({ type: 'L', magic: GNU_MAGIC }, `${'l'.repeat(600)}\0`),
  tarHeader({ path: 'l', type: '2', linkTarget: 'dir', magic: GNU_MAGIC }),
  tarMember({ path: 'dump', type: 'D' }, 'Yab\0'),
  paxHeader([
    ['GNU.sparse.major', '1'],
    ['GNU.sparse.minor', '0'],
    ['GNU.sparse.realsize', '3000'],
  ]),
  tarMember({ path: 's1' }, `2\n100\n3\n2000\n4\n${'\0'.repeat(512 - 15)}abcdefg`),
  tarMember({ path: 'last' }, 'z'.repeat(512)),
);

describe('TarReader: any chunks, any bytes', () => {
  it('tells the same of an archive however it is cut into chunks', () => {
    const whole = collectTar(varied, [varied.length]);
    expect(whole).toHaveLength(6);
    const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 2000 })), {
      minLength: 1,
      maxLength: 20,
    });
    fc.assert(
      fc.property(sizes, (chunkSizes) => {
        expect(collectTar(varied, chunkSizes)).toEqual(whole);
      }),
      { numRuns: 200 },
    );
  });

  it('tells where the damage is however the archive is cut into chunks', () => {
    const bytes = Buffer.concat([tarHeader({ path: 'a' }), Buffer.alloc(512, 1)]);
    for (const size of [1, 100, 512, 700, 1024]) {
      expect(() => collectTar(bytes, [size])).toThrow('tar archive, at byte 512: no tar header');
    }
  });

  it('hands file data on without copying it', () => {
    const member = tarMember({ path: 'a' }, Buffer.alloc(100_000, 1));
    const buffers = new Set<ArrayBufferLike>();
    const reader = new TarReader({
      entry() {},
      data: (bytes) => buffers.add(bytes.buffer),
      hole() {},
      end() {},
    });
    reader.write(member.subarray(0, 5000));
    reader.write(member.subarray(5000));
    reader.finish();
    expect([...buffers]).toEqual([member.buffer]);
  });

  it('meets damaged archives with a FormatError or other entries, never with anything else', () => {
    const position = fc.nat(varied.length - 1);
    const change = fc.oneof(
      fc.record({ kind: fc.constant('byte' as const), at: position, value: fc.nat(255) }),
      fc.record({ kind: fc.constant('cut' as const), at: position, value: fc.nat(1500) }),
      fc.record({ kind: fc.constant('repeat' as const), at: position, value: fc.nat(1500) }),
      // A checksum that is right again lets the damage pass into the parts behind it.
      fc.record({
        kind: fc.constant('field' as const),
        at: fc.nat(varied.length / 512 - 1),
        value: fc.nat(0xffff),
      }),
    );
    let refused = 0;
    const runs = 20_000;
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const bytes = changes.reduce(damage, varied);
        try {
          collectTar(bytes, [4096]);
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
          refused++;
        }
      }),
      { numRuns: runs, seed: 20_260_101 },
    );
    expect(refused).toBeGreaterThan(runs / 10);
    expect(refused).toBeLessThan(runs);
  });
});

interface Change {
  readonly kind: 'byte' | 'cut' | 'repeat' | 'field';
  readonly at: number;
  readonly value: number;
}

function damage(bytes: Buffer, { kind, at, value }: Change): Buffer {
  switch (kind) {
    case 'byte': {
      const changed = Buffer.from(bytes);
      changed[Math.min(at, bytes.length - 1)] = value;
      return changed;
    }
    case 'cut':
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + value)]);
    case 'repeat':
      return Buffer.concat([bytes.subarray(0, at + value), bytes.subarray(at)]);
    case 'field': {
      const changed = Buffer.from(bytes);
      const block = changed.subarray(at * 512, at * 512 + 512);
      if (block.length < 512) return bytes;
      block[(value >> 7) & 0x1ff] = value & 0xff;
      block.fill(' ', 148, 156);
      const sum = block.reduce((total, byte) => total + byte, 0);
      block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1');
      return changed;
    }
  }
}

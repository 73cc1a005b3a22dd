import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  decodeXattr,
  decodeXattrs,
  encodeXattrs,
  inlineTailLength,
  shareXattrs,
  xattrAreaBytes,
} from './erofs-xattrs.ts';

const suffix = fc
  .uint8Array({ minLength: 1, maxLength: 200 })
  .map((bytes) => Buffer.from(bytes).toString('latin1').replaceAll('\0', 'x'));
const name = fc.oneof(
  fc.constantFrom('system.posix_acl_access', 'system.posix_acl_default'),
  fc.tuple(fc.constantFrom('user.', 'trusted.', 'security.'), suffix).map(([prefix, rest]) => prefix + rest),
);
const xattrs = fc
  .array(
    fc.tuple(
      name,
      fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    ),
    { maxLength: 6 },
  )
  .map((pairs) => new Map(pairs));

function encoded(map: ReadonlyMap<string, Buffer>): Buffer {
  const area = Buffer.alloc(xattrAreaBytes(map));
  if (area.length > 0) encodeXattrs(map, area);
  return area;
}

describe('the xattrs of an EROFS inode', () => {
  it('are read as they were written', () => {
    fc.assert(
      fc.property(xattrs, (map) => {
        expect(decodeXattrs(encoded(map))).toEqual({ own: map, shared: [] });
      }),
    );
  });

  it('make the same bytes in whatever order they come', () => {
    const pairs = ['user.b', 'security.a', 'system.posix_acl_access', 'user.a'].map(
      (key) => [key, Buffer.from(key)] as const,
    );
    expect(encoded(new Map(pairs.toReversed()))).toEqual(encoded(new Map(pairs)));
  });

  it('are stored under the numbers of their prefixes', () => {
    const area = encoded(new Map([['security.capability', Buffer.from('v')]]));
    expect(area.subarray(12).toString('latin1')).toBe('\x0a\x06\x01\x00capabilityv\0');
  });

  it.each(['com.apple.provenance', 'system.nfs4_acl', 'user.', 'system.posix_acl_access2', 'users.x'])(
    'leave out %s, which Linux has no place for',
    (unknown) => {
      expect(xattrAreaBytes(new Map([[unknown, Buffer.from('v')]]))).toBe(0);
      const known: [string, Buffer] = ['user.x', Buffer.from('v')];
      expect(encoded(new Map([[unknown, Buffer.from('v')], known]))).toEqual(encoded(new Map([known])));
    },
  );

  it.each([
    ['a name of 256 bytes', [[`user.${'n'.repeat(251)}`, 0]]],
    ['a value of 64 KiB', [['user.a', 65_536]]],
    ['more than the inode can count', [0, 1, 2, 3, 4].map((key) => [`user.${key}`, 60_000])],
  ] as [string, [string, number][]][])('are refused with %s', (_, lengths) => {
    const map = new Map(lengths.map(([key, length]) => [key, Buffer.alloc(length)]));
    expect(() => xattrAreaBytes(map)).toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
  });

  it('are corrupt when they pass the end of their area', () => {
    const area = encoded(new Map([['user.x', Buffer.from('value')]]));
    for (const change of [
      { at: 12, value: 200 },
      { at: 14, value: 200 },
      { at: 13, value: 9 },
      { at: 4, value: 9 },
    ]) {
      const broken = Buffer.from(area);
      broken[change.at] = change.value;
      expect(() => decodeXattrs(broken)).toThrow(expect.objectContaining({ code: 'ERR_EROFS_CORRUPT' }));
    }
  });
});

describe('xattrs that stand apart from their inode', () => {
  it('are found where the area behind the inode says', () => {
    fc.assert(
      fc.property(xattrs, (map) => {
        const { area, entries } = shareXattrs(map);
        const { own, shared } = decodeXattrs(area);
        expect(own.size).toBe(0);
        const found = shared.map((unit) => decodeXattr(entries.subarray(unit * 4)));
        expect(new Map(found.map(({ name, value }) => [name, value]))).toEqual(map);
        expect(found.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(entries.length);
      }),
    );
  });

  it('are refused when there are more than the inode can point at', () => {
    const many = (count: number) =>
      new Map(Array.from({ length: count }, (_, index) => [`user.${index}`, Buffer.from('v')]));
    expect(decodeXattrs(shareXattrs(many(255)).area).shared).toHaveLength(255);
    expect(() => shareXattrs(many(256))).toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
  });
});

describe('the tail of a file', () => {
  const none = new Map<string, Buffer>();
  const some = new Map([['user.x', Buffer.alloc(4096 - 64 - 12 - 8 - 100)]]);
  it.each([
    [0, none, 0],
    [1, none, 1],
    [128, none, 128],
    [129, none, 0],
    [4095, none, 0],
    [4096, none, 0],
    [4096 * 1_000_000 + 5, none, 5],
    [100, some, 100],
    [101, some, 0],
    [1, new Map([['user.x', Buffer.alloc(4096)]]), 0],
  ])(
    'of %i bytes stands behind the inode if it is short and all fits into a block',
    (size, map, expected) => {
      expect(inlineTailLength(size, map)).toBe(expected);
    },
  );
});

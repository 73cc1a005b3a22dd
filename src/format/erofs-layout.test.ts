import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_BYTES,
  decodeInode,
  decodeSuperblock,
  type ErofsInode,
  encodeInode,
  INODE_BYTES,
  writeSuperblock,
} from './erofs-layout.ts';

const BUILD = { buildSeconds: 7, buildNanoseconds: 8 };
const UUID = Buffer.from('00112233445566778899aabbccddeeff', 'hex');

const inode: fc.Arbitrary<Omit<ErofsInode, 'inodeBytes'>> = fc
  .record({
    nid: fc.nat(2 ** 40),
    type: fc.constantFrom('file', 'directory', 'symlink', 'character', 'block', 'fifo', 'socket'),
    mode: fc.nat(0o7777),
    uid: fc.nat(2 ** 32 - 1),
    gid: fc.nat(2 ** 32 - 1),
    mtimeSeconds: fc.maxSafeInteger(),
    mtimeNanoseconds: fc.nat(999_999_999),
    nlink: fc.nat(2 ** 32 - 1),
    size: fc.nat(Number.MAX_SAFE_INTEGER),
    layout: fc.constantFrom('plain', 'inline'),
    startBlock: fc.nat(2 ** 32 - 1),
    major: fc.nat(0xfff),
    minor: fc.nat(0xfffff),
    xattrBytes: fc.nat(0xfffe).map((units) => (units === 0 ? 0 : 12 + 4 * (units - 1))),
  })
  .map((fields) =>
    fields.type === 'character' || fields.type === 'block'
      ? { ...fields, startBlock: 0 }
      : { ...fields, major: 0, minor: 0 },
  );

function firstBlock(): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES, 0xee);
  writeSuperblock(block, { inodes: 5, blocks: 99, xattrBlock: 42, uuid: UUID });
  return block;
}

describe('an EROFS inode', () => {
  it('is read as it was written', () => {
    fc.assert(
      fc.property(inode, (fields) => {
        const bytes = Buffer.alloc(INODE_BYTES, 0xff);
        encodeInode(fields, bytes);
        expect(decodeInode(bytes, fields.nid, BUILD)).toEqual({ ...fields, inodeBytes: 64 });
      }),
    );
  });

  it.each([
    [8, 1, 0x801],
    [1, 3, 0x103],
    [259, 65_536, 0x1001_0300],
    [0xfff, 0xfffff, 0xffff_ffff],
  ])('has device %i:%i as Linux packs it', (major, minor, packed) => {
    const bytes = Buffer.alloc(INODE_BYTES);
    const [sample] = fc.sample(inode, 1) as [ErofsInode];
    encodeInode({ ...sample, type: 'block', major, minor }, bytes);
    expect(bytes.readUInt32LE(16)).toBe(packed);
  });

  it('has the time of the superblock and 16-bit owners when it is compact', () => {
    const bytes = Buffer.alloc(32);
    bytes.writeUInt16LE(0, 0);
    bytes.writeUInt16LE(0o100644, 4);
    bytes.writeUInt16LE(3, 6);
    bytes.writeUInt32LE(1234, 8);
    bytes.writeUInt32LE(17, 16);
    bytes.writeUInt16LE(1000, 24);
    bytes.writeUInt16LE(2000, 26);
    expect(decodeInode(bytes, 40, BUILD)).toMatchObject({
      type: 'file',
      mode: 0o644,
      nlink: 3,
      size: 1234,
      startBlock: 17,
      uid: 1000,
      gid: 2000,
      mtimeSeconds: 7,
      mtimeNanoseconds: 8,
      inodeBytes: 32,
    });
  });

  it.each([
    ['compressed', 1 | (1 << 1)],
    ['in chunks', 1 | (4 << 1)],
    ['of a later format', 1 | (1 << 4)],
  ])('is refused when it is %s', (_, format) => {
    const bytes = Buffer.alloc(INODE_BYTES);
    bytes.writeUInt16LE(format, 0);
    bytes.writeUInt16LE(0o100644, 4);
    expect(() => decodeInode(bytes, 1, BUILD)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }));
  });
});

describe('an EROFS inode that says impossible things', () => {
  it.each([
    ['time', 32, -(2n ** 60n)],
    ['size', 8, 2n ** 60n],
  ])('is refused for its %s', (_, at, value) => {
    const bytes = Buffer.alloc(INODE_BYTES);
    bytes.writeUInt16LE(1, 0);
    bytes.writeUInt16LE(0o100644, 4);
    bytes.writeBigInt64LE(value, at);
    expect(() => decodeInode(bytes, 1, BUILD)).toThrow(
      expect.objectContaining({ code: 'ERR_EROFS_CORRUPT' }),
    );
  });
});

describe('an EROFS superblock', () => {
  it('is read as it was written', () => {
    expect(decodeSuperblock(firstBlock())).toEqual({
      rootNid: 36,
      inodes: 5,
      buildSeconds: 0,
      buildNanoseconds: 0,
      blocks: 99,
      metaBlock: 0,
      xattrBlock: 42,
      uuid: UUID,
    });
  });

  it('leaves the rest of its block alone', () => {
    const block = firstBlock();
    expect(block.subarray(0, 1024)).toEqual(Buffer.alloc(1024, 0xee));
    expect(block.subarray(1152)).toEqual(Buffer.alloc(BLOCK_BYTES - 1152, 0xee));
  });

  it.each([1024 + 36, 1024 + 50, 1152, BLOCK_BYTES - 1])(
    'is refused when byte %i of its block differs',
    (at) => {
      const block = firstBlock();
      block[at] = (block[at] ?? 0) ^ 1;
      expect(() => decodeSuperblock(block)).toThrow(expect.objectContaining({ code: 'ERR_EROFS_CORRUPT' }));
    },
  );

  it('needs no checksum where it says that there is none', () => {
    const block = firstBlock();
    block.writeUInt32LE(0, 1024 + 8);
    block.writeUInt32LE(0, 1024 + 4);
    expect(decodeSuperblock(block).blocks).toBe(99);
  });

  it.each([
    ['magic', 0, 1, 'ERR_EROFS_CORRUPT'],
    ['block size', 12, 9, 'ERR_UNSUPPORTED'],
    ['features', 80, 0x10, 'ERR_UNSUPPORTED'],
  ])('is refused with an unknown %s', (_, at, value, code) => {
    const block = firstBlock();
    block.writeUInt32LE(0, 1024 + 8);
    block[1024 + at] = value;
    expect(() => decodeSuperblock(block)).toThrow(expect.objectContaining({ code }));
  });
});

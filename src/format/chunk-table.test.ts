import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type ChunkTable, decodeChunkTable, encodeChunkTable, verifyChunk } from './chunk-table.ts';

function tableOf(blob: Buffer, chunkSize: number): ChunkTable {
  const digests: Buffer[] = [];
  for (let at = 0; at < blob.length; at += chunkSize) {
    digests.push(
      createHash('sha256')
        .update(blob.subarray(at, at + chunkSize))
        .digest(),
    );
  }
  return { chunkSize, blobSize: blob.length, digests: Buffer.concat(digests) };
}

const blob = Buffer.alloc(10_000, 'chunk');
const table = tableOf(blob, 4096);

test('a table that is encoded is decoded, for any size of blob', () => {
  fc.assert(
    fc.property(fc.nat(50_000), fc.constantFrom(4096, 8192, 65_536), (size, chunkSize) => {
      const original = tableOf(Buffer.alloc(size, 'x'), chunkSize);
      expect(decodeChunkTable(encodeChunkTable(original))).toEqual(original);
    }),
  );
});

test('the first 24 bytes are as documented', () => {
  expect(encodeChunkTable(table).toString('hex', 0, 24)).toBe(
    '4441444963686e6b' + '01000000' + '00100000' + '1027000000000000',
  );
});

describe('a chunk', () => {
  const chunk = (i: number): Buffer => Buffer.from(blob.subarray(i * 4096, (i + 1) * 4096));

  test('is verified if it is whole and in its place', () => {
    for (const i of [0, 1, 2]) expect(verifyChunk(table, i, chunk(i))).toBe(true);
  });

  test('is refused if one bit differs, or it is too short, too long or another', () => {
    const flipped = chunk(1);
    flipped[4000]! ^= 1;
    expect(verifyChunk(table, 1, flipped)).toBe(false);
    expect(verifyChunk(table, 0, chunk(0).subarray(0, 4095))).toBe(false);
    expect(verifyChunk(table, 2, Buffer.concat([chunk(2), Buffer.alloc(1)]))).toBe(false);
    expect(verifyChunk(table, 0, chunk(1))).toBe(false);
  });

  test('of zeros does not pass for one that holds something, whatever its length', () => {
    for (const i of [0, 1, 2]) {
      for (const length of [0, 1, 1808, 4096])
        expect(verifyChunk(table, i, Buffer.alloc(length))).toBe(false);
    }
  });

  test('beyond the table is refused', () => {
    for (const i of [-1, 3, 0.5, Number.NaN]) expect(verifyChunk(table, i, Buffer.alloc(0))).toBe(false);
  });
});

describe('decode', () => {
  const encoded = encodeChunkTable(table);
  const patched = (at: number, hex: string): Buffer => {
    const copy = Buffer.from(encoded);
    copy.write(hex, at, 'hex');
    return copy;
  };

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['another magic number', patched(0, '00')],
    ['a chunk size of 0', patched(12, '00000000')],
    ['a chunk size that is no power of two', patched(12, '01100000')],
    ['a chunk size of 128 MiB', patched(12, '00000008').subarray(0, 56)],
    ['more digests than chunks', Buffer.concat([encoded, Buffer.alloc(32)])],
    ['part of a digest', encoded.subarray(0, -1)],
    ['a blob of 2^64 - 1 bytes', patched(16, 'ffffffffffffffff')],
  ])('refuses %s', (_what, junk) => {
    expect(() => decodeChunkTable(junk)).toThrowError(
      expect.objectContaining({ name: 'FormatError', code: 'ERR_CHUNK_TABLE_CORRUPT' }),
    );
  });

  test('refuses another version as unsupported', () => {
    expect(() => decodeChunkTable(patched(8, '02'))).toThrowError(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
    );
  });
});

test('a table whose numbers do not fit together is not encoded', () => {
  expect(() => encodeChunkTable({ ...table, blobSize: 4096 })).toThrowError(/chunk table/);
  for (const blobSize of [-1, 0.5, Number.NaN]) {
    const digests = Buffer.alloc(Math.ceil(Math.max(0, blobSize || 0)) * 32);
    expect(() => encodeChunkTable({ ...table, blobSize, digests })).toThrowError(/chunk table/);
  }
});

import { describe, expect, test } from 'vitest';
import { type SegmentRow, segmentTable } from '../../test/support/segments.ts';
import { decodeIndex, encodeIndex } from './lsmt-index.ts';

const LARGEST_LBA = 2 ** 50 - 2;

test('the largest addresses, on the device and in the file, are read back', () => {
  const rows: SegmentRow[] = [
    [2 ** 32 - 1, 5, 2 ** 43 - 100, false],
    [2 ** 49 + 1, 1, 2 ** 40, false],
    [LARGEST_LBA, 1, 8, false],
  ];
  const { bytes, entries } = encodeIndex(segmentTable(rows), 2 ** 43);
  expect(entries).toBe(256);
  expect(decodeIndex(bytes, 2 ** 52)).toMatchObject({
    count: 3,
    lba: Float64Array.from(rows, (row) => row[0]),
    length: Uint16Array.from(rows, (row) => row[1]),
    data: Float64Array.from(rows, (row) => row[2]),
  });
});

describe('decoding refuses', () => {
  const index = (...entries: [word0: bigint, word1: bigint][]): Buffer =>
    Buffer.from(BigUint64Array.from(entries.flat()).buffer);
  const padding: [bigint, bigint] = [2n ** 50n - 1n, 0n];
  const first: [bigint, bigint] = [(1n << 50n) | 5n, 8n];

  test('a segment that ends beyond the largest address', () => {
    const beyond: [bigint, bigint] = [(2n << 50n) | BigInt(LARGEST_LBA), 8n];
    expect(() => decodeIndex(index(first, beyond), 2 ** 20)).toThrowError(
      expect.objectContaining({ code: 'ERR_LSMT_CORRUPT' }),
    );
  });

  test('padding that segments follow', () => {
    expect(decodeIndex(index(first, padding, padding), 2 ** 20).count).toBe(1);
    expect(() => decodeIndex(index(padding, first), 2 ** 20)).toThrowError(
      expect.objectContaining({ code: 'ERR_LSMT_CORRUPT' }),
    );
  });

  test('1,000,001 segments, although 1,000,000 with their padding are as many entries', () => {
    const entries = Buffer.alloc(1_000_192 * 16);
    for (let i = 0; i < 1_000_192; i++) {
      entries.writeBigUInt64LE(i < 1_000_000 ? (1n << 50n) | BigInt(i * 2) : padding[0], i * 16);
      if (i < 1_000_000) entries.writeBigUInt64LE(8n, i * 16 + 8);
    }
    expect(decodeIndex(entries, 2 ** 20).count).toBe(1_000_000);
    entries.writeBigUInt64LE((1n << 50n) | 2_000_000n, 16_000_000);
    expect(() => decodeIndex(entries, 2 ** 20)).toThrowError(expect.objectContaining({ code: 'ERR_LIMIT' }));
  });
});

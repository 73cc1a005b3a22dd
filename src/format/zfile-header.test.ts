import { describe, expect, test } from 'vitest';
import { type Golden, goldenFiles } from '../../test/support/golden.ts';
import { decodeZFileHeader, encodeZFileHeader, ZFILE_HEADER_BYTES } from './zfile-header.ts';

const goldens = goldenFiles('zfile', 'ext4', 'lsmt', 'merge', 'rw').filter((g) => g.sidecar.obd_info?.zfile);

function both(golden: Golden): { header: Buffer; trailer: Buffer } {
  const bytes = golden.bytes();
  const info = golden.sidecar.obd_info!;
  const start = info.tar_wrapped ? 1536 : 0;
  const end = start + (info.tar?.inner_size ?? bytes.length);
  return {
    header: bytes.subarray(start, start + ZFILE_HEADER_BYTES),
    trailer: bytes.subarray(end - ZFILE_HEADER_BYTES, end),
  };
}

function patched(bytes: Buffer, at: number, value: number): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(value, at);
  return copy;
}

test('the golden files are there', () => {
  expect(goldens.length).toBe(58);
});

describe.each(goldens.map((golden) => [golden.name, golden] as const))('%s', (_name, golden) => {
  const { header, trailer } = both(golden);
  const fields = golden.sidecar.obd_info!.zfile!;

  test.each([
    ['header', header, fields.header],
    ['trailer', trailer, fields.trailer],
  ] as const)(
    'its %s decodes to the recorded fields and encodes to the same bytes',
    (kind, bytes, recorded) => {
      const decoded = decodeZFileHeader(bytes, kind);
      expect(decoded).toEqual({
        kind,
        overwritten: (recorded.flags & 8) !== 0,
        hasDigests: (recorded.flags & 16) !== 0,
        indexOffset: recorded.index_offset,
        indexEntries: recorded.index_size,
        indexCrc: Number(recorded.index_crc),
        originalSize: recorded.original_file_size,
        blockSize: recorded.block_size,
        algorithm: recorded.algo === 1 ? 'lz4' : 'zstd',
        verify: recorded.verify === 1,
        dictionarySize: recorded.dict_size,
      });
      expect(encodeZFileHeader(decoded).equals(bytes)).toBe(true);
    },
  );
});

describe('a header', () => {
  const { header, trailer } = both(goldens[0]!);
  const withoutDigests = patched(header, 32, header.readUInt8(32) & ~16);

  test('is refused when a byte of it changed', () => {
    for (const at of [0, 9, 24, 30, 40, 56, 64, 72, 400]) {
      const damaged = patched(header, at, header.readUInt8(at) ^ 0x55);
      expect(() => decodeZFileHeader(damaged, 'header')).toThrowError(
        expect.objectContaining({ code: 'ERR_ZFILE_CORRUPT' }),
      );
    }
  });

  test('is not taken for a trailer, nor a trailer for a header', () => {
    expect(() => decodeZFileHeader(header, 'trailer')).toThrowError(/not marked/);
    expect(() => decodeZFileHeader(trailer, 'header')).toThrowError(/not marked/);
  });

  test('without checksums may have garbage where nothing is defined, as a shipped base layer does', () => {
    let garbled = withoutDigests;
    for (const at of [28, 31, 33, 39, 64, 68, 89, 511]) garbled = patched(garbled, at, 0xa5);
    garbled = patched(garbled, 32, garbled.readUInt8(32) | 0xc0);
    const { indexCrc: _, ...expected } = decodeZFileHeader(withoutDigests, 'header');
    expect(decodeZFileHeader(garbled, 'header')).toMatchObject(expected);
  });

  test('of something else than a data file, and a trailer that is not sealed, are refused', () => {
    const unsealed = patched(trailer, 32, trailer.readUInt8(32) & ~(16 | 4));
    expect(() => decodeZFileHeader(unsealed, 'trailer')).toThrowError(/not sealed/);
    const noData = patched(withoutDigests, 32, withoutDigests.readUInt8(32) & ~2);
    expect(() => decodeZFileHeader(noData, 'header')).toThrowError(/not marked as that of a data file/);
  });

  test.each([
    ['a dictionary', 78, 1],
    ['an unknown algorithm', 76, 3],
    ['an unknown block size', 73, 0x30],
    ['a compressed index', 32, 0x2b],
  ])('that asks for %s is refused as unsupported', (_what, at, value) => {
    expect(() => decodeZFileHeader(patched(withoutDigests, at, value), 'header')).toThrowError(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
    );
  });
});

import { describe, expect, test } from 'vitest';
import { readAll, SpySource } from '../../test/support/byte-sources.ts';
import { golden, goldenFiles, sha256 } from '../../test/support/golden.ts';
import { MemorySink } from '../../test/support/sinks.ts';
import { BufferSource } from './buffer-source.ts';
import { openLayerBlob } from './overlaybd-tar.ts';
import { decodeZFileHeader, encodeZFileHeader, type ZFileHeader } from './zfile-header.ts';
import { ZFileReader } from './zfile-reader.ts';
import { ZFileWriter } from './zfile-writer.ts';

const goldens = goldenFiles('zfile', 'ext4', 'lsmt', 'merge', 'rw', 'erofs', 'turbo-ext4').filter(
  (g) => g.sidecar.obd_info?.zfile,
);

/** What a file holds of which the stock reader fails on what the stock writer wrote. */
const STOCK_READER_FAILS: Readonly<Record<string, string>> = {
  'ext4/layer2.zstd-64k.tar.obd': golden('ext4/layer2.lz4-4k.tar.obd').sidecar.obd_info!.decompressed_sha256!,
  'zfile/mixed5m.zstd-64k.zfile': golden('zfile/mixed5m.zstd-64k.zfile').sidecar.source_sha256!,
  'zfile/rand256k.lz4-65536.crc.zfile': golden('zfile/rand256k.lz4-65536.crc.zfile').sidecar.source_sha256!,
};

describe('golden files', () => {
  test('are there', () => {
    expect(goldens.length).toBe(64);
    const failing = goldens.filter((g) => g.sidecar.obd_info!.decompressed_sha256 === 'READ-ERROR');
    expect(failing.map((g) => g.name).sort()).toEqual(Object.keys(STOCK_READER_FAILS).sort());
  });

  test.each(goldens.map((g) => [g.name, g] as const))(
    '%s decompresses to the recorded bytes',
    async (name, g) => {
      const reader = await openLayerBlob(new BufferSource(g.bytes()));
      expect(reader).toBeInstanceOf(ZFileReader);
      const recorded = g.sidecar.obd_info!.decompressed_sha256!;
      expect(reader.size).toBe(g.sidecar.obd_info!.decompressed_size);
      expect(sha256(await readAll(reader))).toBe(STOCK_READER_FAILS[name] ?? recorded);
    },
  );
});

const small = golden('zfile/small.zstd-4096.crc.zfile');
const bytes = small.bytes();
const lengths = small.sidecar.obd_info!.zfile!.index_first;

describe('a read', () => {
  test('of any range gives what the whole has there', async () => {
    const reader = await ZFileReader.open(new BufferSource(bytes));
    const whole = await readAll(reader);
    for (const offset of [0, 1, 4095, 4096, 4097, 8191, 9999, 10_000]) {
      for (const length of [0, 1, 2, 4095, 4096, 4097, 8192, 10_000]) {
        if (offset + length > whole.length) continue;
        const target = Buffer.alloc(length, 0xee);
        await reader.read(offset, target);
        expect(target.equals(whole.subarray(offset, offset + length))).toBe(true);
      }
    }
  });

  test('of several blocks is one read of the source, of these blocks only', async () => {
    const source = new SpySource(bytes);
    const reader = await ZFileReader.open(source);
    source.reads.length = 0;
    await reader.read(4000, Buffer.alloc(200));
    expect(source.reads).toEqual([[512, lengths[0]! + lengths[1]!]]);
  });

  test('beyond the end is refused', async () => {
    const reader = await ZFileReader.open(new BufferSource(bytes));
    await expect(reader.read(9999, Buffer.alloc(2))).rejects.toMatchObject({ code: 'ERR_SOURCE_RANGE' });
  });

  test('may overlap others in time, although they share a block', async () => {
    const reader = await ZFileReader.open(new BufferSource(bytes));
    const whole = await readAll(reader);
    const targets = Array.from({ length: 50 }, () => Buffer.alloc(100));
    await Promise.all(targets.map((target, i) => reader.read(i * 190, target)));
    for (const [i, target] of targets.entries()) {
      expect(target.equals(whole.subarray(i * 190, i * 190 + 100))).toBe(true);
    }
  });
});

describe('a damaged block', () => {
  const flip = (offset: number, target: Buffer, at: number): void => {
    if (offset <= at && at < offset + target.length) target[at - offset]! ^= 1;
  };

  test('is read once more, and used if it is whole then', async () => {
    const source = new SpySource(bytes, (offset, target, read) => {
      if (read === 4) flip(offset, target, 512 + lengths[0]! + 10);
    });
    const reader = await ZFileReader.open(source);
    expect(source.reads.length).toBe(3);
    expect(sha256(await readAll(reader))).toBe(small.sidecar.source_sha256);
    expect(source.reads.slice(4)).toEqual([[512 + lengths[0]!, lengths[1]]]);
  });

  test('is ERR_SOURCE_CORRUPT if it stays so, after two reads', async () => {
    const source = new SpySource(bytes, (offset, target) => flip(offset, target, 512 + lengths[0]! + 10));
    const reader = await ZFileReader.open(source);
    await expect(readAll(reader)).rejects.toMatchObject({
      name: 'SourceError',
      code: 'ERR_SOURCE_CORRUPT',
      message: expect.stringContaining('block 1'),
    });
    expect(source.reads.length).toBe(5);
  });

  test('is seen in its checksum, too', async () => {
    const source = new SpySource(bytes, (offset, target) => flip(offset, target, 512 + lengths[0]! - 1));
    const reader = await ZFileReader.open(source);
    await expect(readAll(reader)).rejects.toMatchObject({ code: 'ERR_SOURCE_CORRUPT' });
  });

  test.each(['lz4', 'zstd'] as const)(
    'of zeros, its checksum too, does not pass for one that was not written yet (%s)',
    async (algorithm) => {
      const sink = new MemorySink();
      const writer = new ZFileWriter(sink, { algorithm, blockSize: 4096 });
      writer.write(Buffer.alloc(20_000));
      writer.finish();
      const file = sink.bytes;
      // Even where zeros are what the block holds: a checksum of zeros that began from 0 would be 0.
      file.fill(0, 512, file.length - 512 - 5 * 4);
      const source = new SpySource(file);
      const reader = await ZFileReader.open(source);
      const opening = source.reads.length;
      for (let block = 0; block < 5; block++) {
        const read = reader.read(block * 4096, Buffer.alloc(1));
        await expect(read).rejects.toMatchObject({
          code: 'ERR_SOURCE_CORRUPT',
          message: expect.stringContaining('checksum'),
        });
      }
      // And nobody asks for it again and again.
      expect(source.reads.length - opening).toBe(10);
    },
  );

  test('that holds less than it should is ERR_SOURCE_CORRUPT, although its checksum is right', async () => {
    const sink = new MemorySink();
    const writer = new ZFileWriter(sink, { algorithm: 'lz4', blockSize: 4096 });
    writer.write(Buffer.alloc(4000, 1));
    writer.finish();
    const file = sink.bytes;
    const trailer = decodeZFileHeader(file.subarray(-512), 'trailer');
    encodeZFileHeader({ ...trailer, originalSize: 4096 }).copy(file, file.length - 512);
    const reader = await ZFileReader.open(new BufferSource(file));
    await expect(readAll(reader)).rejects.toMatchObject({
      code: 'ERR_SOURCE_CORRUPT',
      message: expect.stringContaining('4000 bytes instead of 4096'),
    });
  });

  test('without a checksum is ERR_SOURCE_CORRUPT if it does not decompress to its length', async () => {
    const unverified = Buffer.from(golden('zfile/small.lz4-4096.nocrc.zfile').bytes());
    unverified.fill(0xff, 520, 600);
    const reader = await ZFileReader.open(new BufferSource(unverified));
    await expect(readAll(reader)).rejects.toMatchObject({ code: 'ERR_SOURCE_CORRUPT' });
  });
});

describe('open', () => {
  const base: ZFileHeader = {
    kind: 'header',
    overwritten: true,
    hasDigests: false,
    indexOffset: 612,
    indexEntries: 1,
    indexCrc: 0,
    originalSize: 4096,
    blockSize: 4096,
    algorithm: 'lz4',
    verify: true,
    dictionarySize: 0,
  };
  const file = (fields: Partial<ZFileHeader>, blockLength: number): Buffer => {
    const header = { ...base, ...fields };
    const result = Buffer.alloc(20_000);
    encodeZFileHeader(header).copy(result);
    if (header.indexOffset < result.length) result.writeUInt32LE(blockLength, header.indexOffset);
    return result;
  };

  test('accepts the file that the others differ from', async () => {
    const reader = await ZFileReader.open(new BufferSource(file({}, 100)));
    expect(reader.size).toBe(4096);
  });

  test.each([
    ['an index behind the end', file({ indexOffset: 19_996, originalSize: 8192, indexEntries: 2 }, 100)],
    ['an index at 2^63', file({ indexOffset: 2 ** 63 }, 100)],
    ['2^40 index entries', file({ indexEntries: 2 ** 40, originalSize: 2 ** 52 }, 100)],
    ['fewer blocks than its size needs', file({ originalSize: 4097 }, 100)],
    ['more blocks than its size needs', file({ originalSize: 0 }, 100)],
    ['an original size of 2^64 - 1', file({ originalSize: 2 ** 64 - 2048 }, 100)],
    ['a block that is only a checksum', file({}, 4)],
    ['a block of 4 GiB', file({}, 2 ** 32 - 1)],
    ['a block much longer than what it holds', file({ indexOffset: 10_000 }, 8193)],
    ['a block that reaches into the index', file({}, 101)],
    ['a dictionary that reaches into the index', file({ dictionarySize: 2 ** 32 - 1 }, 100)],
    ['an index that does not match its checksum', file({ hasDigests: true, indexCrc: 1 }, 100)],
    ['too few bytes', file({}, 100).subarray(0, 500)],
  ])('refuses %s', async (_what, hostile) => {
    const opening = ZFileReader.open(new BufferSource(hostile));
    await expect(opening).rejects.toMatchObject({ name: 'FormatError', code: 'ERR_ZFILE_CORRUPT' });
  });

  test('refuses more blocks than a layer needs before it makes room for them', async () => {
    const size = 2 ** 40;
    const header = encodeZFileHeader({ ...base, indexEntries: 2 ** 27, originalSize: 2 ** 39 });
    const huge = {
      size,
      read: async (_offset: number, target: Buffer) => void header.copy(target),
      close: async () => {},
    };
    await expect(ZFileReader.open(huge)).rejects.toMatchObject({ code: 'ERR_LIMIT' });
  });

  test('reads the trailer only if the header does not say all', async () => {
    const complete = new SpySource(golden('zfile/exact64k.lz4-4096.crc.zfile').bytes());
    await ZFileReader.open(complete);
    expect(complete.reads.map(([offset]) => offset)).toEqual([0, expect.any(Number)]);
    const referring = new SpySource(bytes);
    await ZFileReader.open(referring);
    expect(referring.reads.map(([offset]) => offset)).toEqual([0, bytes.length - 512, expect.any(Number)]);
  });
});

import { describe, expect, test } from 'vitest';
import { readAll } from '../../test/support/byte-sources.ts';
import { golden, goldenFiles } from '../../test/support/golden.ts';
import { BufferSource } from './buffer-source.ts';
import { LsmtLayer } from './lsmt-layer.ts';
import { openLayerBlob } from './overlaybd-tar.ts';

const goldens = goldenFiles('ext4', 'lsmt', 'merge', 'rw').filter((g) => g.sidecar.obd_info?.lsmt);

function openBytes(bytes: Buffer): Promise<LsmtLayer> {
  return LsmtLayer.open(new BufferSource(bytes));
}

describe('golden files', () => {
  test('are there', () => {
    expect(goldens.length).toBe(31);
  });

  test.each(goldens.map((g) => [g.name, g] as const))(
    '%s has the recorded identity and index',
    async (_name, g) => {
      const layer = await LsmtLayer.open(await openLayerBlob(new BufferSource(g.bytes())));
      const { trailer, index } = g.sidecar.obd_info!.lsmt!;
      expect(layer).toMatchObject({
        uuid: trailer.uuid.toLowerCase(),
        parentUuid: trailer.parent_uuid.toLowerCase(),
        virtualSize: trailer.virtual_size,
        userTag: trailer.user_tag,
      });
      const { lba, length, data, zeroed, count } = layer.segments;
      const rows = Array.from({ length: count }, (_, i) => [lba[i], length[i], data[i], zeroed[i]]);
      expect(rows).toEqual(index.map((row) => row.slice(0, 4)));
    },
  );

  test('of turboOCI layers are refused, since their data stands in a tar elsewhere', async () => {
    const turbo = goldenFiles('erofs', 'turbo-ext4');
    expect(turbo).toHaveLength(6);
    for (const { bytes } of turbo) {
      const content = await openLayerBlob(new BufferSource(bytes()));
      await expect(LsmtLayer.open(content)).rejects.toMatchObject({ code: 'ERR_LSMT_CORRUPT' });
    }
  });

  test('of writable layers are refused as unsupported', async () => {
    for (const name of ['rw/layer3.append.writable_data', 'rw/layer3.append.writable_index']) {
      await expect(openBytes(golden(name).bytes())).rejects.toMatchObject({
        code: 'ERR_UNSUPPORTED',
        message: expect.stringContaining('writable'),
      });
    }
  });
});

describe('open', async () => {
  const { trailer } = golden('lsmt/rand1.L1.obd').sidecar.obd_info!.lsmt!;
  const whole = await readAll(await openLayerBlob(new BufferSource(golden('lsmt/rand1.L1.obd').bytes())));
  const trailerAt = whole.length - 4096;
  const patched = (at: number, hex: string): Buffer => {
    const copy = Buffer.from(whole);
    copy.write(hex, at, 'hex');
    return copy;
  };
  const entry = (i: number): number => trailer.index_offset + i * 16;
  /** The second entry, with its upper half of word 0 or word 1 replaced. */
  const word = (number: 0 | 1, value: bigint): Buffer => {
    const copy = Buffer.from(whole);
    copy.writeBigUInt64LE(value, entry(1) + number * 8);
    return copy;
  };

  test('accepts the file that the others differ from', async () => {
    expect((await openBytes(whole)).segments.count).toBe(52);
  });

  test.each([
    [
      'a header at the end',
      Buffer.concat([whole.subarray(0, trailerAt), whole.subarray(0, 4096)]),
      /no trailer/,
    ],
    ['a trailer that is not sealed', patched(trailerAt + 28, '02'), /no trailer/],
    ['an index in the header', patched(trailerAt + 32, '0000000000000000'), /is not inside/],
  ])('names %s for what it is', async (_what, hostile, message) => {
    await expect(openBytes(hostile)).rejects.toMatchObject({
      code: 'ERR_LSMT_CORRUPT',
      message: expect.stringMatching(message),
    });
  });

  test.each([
    ['too few bytes', whole.subarray(0, 4000)],
    ['a file cut short', whole.subarray(0, whole.length - 512)],
    ['a trailer at the beginning', Buffer.concat([whole.subarray(trailerAt), whole.subarray(4096)])],
    ['2^50 index entries', patched(trailerAt + 40, '0000000000000400')],
    ['one entry more than there is room for', patched(trailerAt + 40, '0101000000000000')],
    ['an index behind the end', patched(trailerAt + 32, '0000000000010000')],
    ['an empty segment', word(0, 5000n)],
    ['a segment that begins before the last one ends', word(0, (1n << 50n) | 0n)],
    ['a segment beyond the largest address', word(0, (16_383n << 50n) | ((1n << 50n) - 2n))],
    ['data in the header', word(1, 7n)],
    ['data in the index', word(1, BigInt(trailer.index_offset / 512))],
    ['data at sector 2^55 - 1', word(1, (1n << 55n) - 1n)],
  ])('refuses %s', async (_what, hostile) => {
    await expect(openBytes(hostile)).rejects.toMatchObject({ name: 'FormatError', code: 'ERR_LSMT_CORRUPT' });
  });

  test('refuses more segments than a layer may have before it reads them', async () => {
    let reads = 0;
    const huge = {
      size: 2 ** 40,
      read: async (offset: number, target: Buffer) => {
        reads++;
        whole.copy(target, 0, offset === 0 ? 0 : trailerAt);
        if (offset > 0) target.writeBigUInt64LE(1_000_257n, 40);
      },
      close: async () => {},
    };
    await expect(LsmtLayer.open(huge)).rejects.toMatchObject({ code: 'ERR_LIMIT' });
    expect(reads).toBe(2);
  });
});

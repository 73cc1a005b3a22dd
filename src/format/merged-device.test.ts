import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readAll, SpySource } from '../../test/support/byte-sources.ts';
import { type DeviceDigests, type Golden, golden, goldenFiles, sha256 } from '../../test/support/golden.ts';
import { anySegments, type SegmentRow, segmentTable } from '../../test/support/segments.ts';
import { MemorySink } from '../../test/support/sinks.ts';
import { BufferSource } from './buffer-source.ts';
import { type ByteSource, SourceError } from './byte-source.ts';
import { LsmtLayer } from './lsmt-layer.ts';
import { LsmtWriter, NO_PARENT_UUID } from './lsmt-writer.ts';
import { MergedDevice } from './merged-device.ts';
import { openLayerBlob } from './overlaybd-tar.ts';
import { mergeSegments } from './segments.ts';
import { ZFileReader } from './zfile-reader.ts';
import { ZFileWriter } from './zfile-writer.ts';

/** The golden files below this one in its device, bottom first. */
function lowers({ name, sidecar }: Golden): string[] {
  if (/merged/.test(name)) return [];
  const [, stack, number] = /^(lsmt\/\w+\.)L(\d)\.obd$/.exec(name) ?? [];
  if (stack !== undefined)
    return Array.from({ length: Number(number) - 1 }, (_, i) => `${stack}L${i + 1}.obd`);
  const count = sidecar.lowers_below?.length ?? sidecar.merged_device!.layers - 1;
  return ['ext4/layer1.zstd-16k.tar.obd', 'ext4/layer2.zstd-64k.tar.obd'].slice(0, count);
}

function digests({ name, sidecar }: Golden): DeviceDigests {
  // Stock overlaybd cannot read this layer; it holds what the other encoding of it holds.
  if (name === 'ext4/layer2.zstd-64k.tar.obd')
    return golden('ext4/layer2.lz4-4k.tar.obd').sidecar.merged_device!;
  return sidecar.merged_device ?? sidecar.merged_device_of_layers_1_to_this!;
}

function openLayers(goldens: readonly Golden[]): Promise<LsmtLayer[]> {
  return Promise.all(
    goldens.map(async (g) => LsmtLayer.open(await openLayerBlob(new BufferSource(g.bytes())))),
  );
}

/** Of whole devices, by the digests of their chunks: equal chunks need not be hashed as a whole again. */
const wholeDigests = new Map<string, string>();

async function compareDevice(device: MergedDevice, recorded: DeviceDigests): Promise<void> {
  const chunk = Buffer.alloc(recorded.chunk_bytes);
  const zeros = Buffer.alloc(recorded.chunk_bytes);
  const expected = new Map(recorded.chunks);
  const key = JSON.stringify([recorded.vsize, recorded.chunks]);
  const whole = wholeDigests.has(key) ? null : createHash('sha256');
  for (let offset = 0; offset < device.size; offset += chunk.length) {
    await device.read(offset, chunk.fill(0xee));
    whole?.update(chunk);
    const wanted = expected.get(offset);
    if (wanted === undefined) expect(chunk.equals(zeros)).toBe(true);
    else expect([offset, sha256(chunk)]).toEqual([offset, wanted]);
  }
  if (whole !== null) wholeDigests.set(key, whole.digest('hex'));
  expect(wholeDigests.get(key)).toBe(recorded.sha256);
}

describe('the device of golden layers', () => {
  const goldens = goldenFiles('ext4', 'lsmt', 'merge', 'rw').filter((g) => g.sidecar.obd_info?.lsmt);

  test('are there', () => {
    expect(goldens.length).toBe(31);
  });

  test.each(goldens.map((g) => [g.name, g] as const))('up to %s has the recorded bytes', async (_name, g) => {
    const layers = await openLayers([...lowers(g).map(golden), g]);
    const recorded = digests(g);
    const device = MergedDevice.open(layers);
    expect(layers.length).toBe(recorded.layers);
    expect(device.size).toBe(recorded.vsize);
    await compareDevice(device, recorded);
  });

  // Those in rw/ were recorded over another build of the first layer, of the same content.
  test.each(goldens.filter((g) => !g.name.startsWith('rw/')).map((g) => [g.name, g] as const))(
    'up to %s has the recorded segments',
    async (_name, g) => {
      const layers = await openLayers([...lowers(g).map(golden), g]);
      const merged = mergeSegments(layers.map((layer) => layer.segments));
      const rows = Array.from({ length: merged.count }, (_, i) => [
        merged.lba[i],
        merged.length[i],
        merged.data[i],
        layers.length - 1 - merged.layer[i]!,
      ]);
      expect(rows).toEqual(joined(digests(g).merged_segments, layers.length > 1));
    },
  );
});

/** Recorded segments as ours: without zeroed ones, neighbours that are contiguous as one. */
function joined(recorded: DeviceDigests['merged_segments'], isStack: boolean): number[][] {
  const rows: [number, number, number, number][] = [];
  for (const [lba, length, data, zeroed, tag] of recorded) {
    if (zeroed === 1) continue;
    // A merged file keeps in its tags the numbers that its layers had; it is one layer nevertheless.
    const layer = isStack ? tag : 0;
    const last = rows.at(-1);
    if (last && last[0] + last[1] === lba && last[2] + last[1] === data && last[3] === layer)
      last[1] += length;
    else rows.push([lba, length, data, layer]);
  }
  return rows;
}

const DEVICE_SECTORS = 120;

/** Each layer's data is of the byte 16 * layer + (sector of its file & 15) + 1: no two layers share one. */
async function layerOf(rows: readonly SegmentRow[], layer: number, zfile: boolean): Promise<LsmtLayer> {
  const sectors = Math.max(0, ...rows.map(([, length, data, zeroed]) => (zeroed ? 0 : data + length - 8)));
  const bytes = Buffer.alloc(sectors * 512);
  for (let i = 0; i < sectors; i++) bytes.fill(dataByte(layer, i + 8), i * 512, (i + 1) * 512);
  const sink = new MemorySink();
  const packed = zfile ? new ZFileWriter(sink, { algorithm: 'lz4', blockSize: 4096 }) : null;
  const writer = new LsmtWriter(packed ?? sink, {
    uuid: NO_PARENT_UUID,
    parentUuid: NO_PARENT_UUID,
  });
  writer.appendData(bytes);
  writer.finish({ segments: segmentTable(rows), virtualSize: DEVICE_SECTORS * 512 });
  packed?.finish();
  const file = new BufferSource(sink.bytes);
  return LsmtLayer.open(zfile ? await ZFileReader.open(file) : file);
}

function dataByte(layer: number, sector: number): number {
  return 16 * layer + (sector & 15) + 1;
}

function model(layers: readonly (readonly SegmentRow[])[]): Buffer {
  const device = Buffer.alloc(DEVICE_SECTORS * 512);
  for (const [layer, rows] of layers.entries()) {
    for (const [lba, length, data, zeroed] of rows) {
      for (let i = 0; i < length; i++) {
        device.fill(zeroed ? 0 : dataByte(layer, data + i), (lba + i) * 512, (lba + i + 1) * 512);
      }
    }
  }
  return device;
}

describe('layers that were written', () => {
  const anyStack = fc.array(fc.tuple(anySegments(DEVICE_SECTORS), fc.boolean()), {
    minLength: 1,
    maxLength: 6,
  });
  const anyRanges = fc.array(fc.tuple(fc.nat(DEVICE_SECTORS * 512), fc.nat(9000)), { maxLength: 10 });

  test('read as the device that they describe, at any offset and length', async () => {
    await fc.assert(
      fc.asyncProperty(anyStack, anyRanges, async (stack, ranges) => {
        const layers = await Promise.all(stack.map(([rows, zfile], i) => layerOf(rows, i, zfile)));
        const device = MergedDevice.open(layers);
        const expected = model(stack.map(([rows]) => rows));
        expect((await readAll(device)).equals(expected)).toBe(true);
        for (const [offset, length] of ranges) {
          const target = Buffer.alloc(Math.min(length, expected.length - offset), 0xee);
          await device.read(offset, target);
          expect(target.equals(expected.subarray(offset, offset + target.length))).toBe(true);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('have extents that cover a range without gaps and are holes where no layer has data', async () => {
    await fc.assert(
      fc.asyncProperty(anyStack, anyRanges, async (stack, ranges) => {
        const layers = await Promise.all(stack.map(([rows]) => layerOf(rows, stack.length, false)));
        const device = MergedDevice.open(layers);
        const expected = await readAll(device);
        for (const [offset, length] of ranges) {
          const end = Math.min(offset + length, device.size);
          let at = offset;
          for (const extent of device.extents(offset, end - offset)) {
            expect(extent.offset).toBe(at);
            expect(extent.length).toBeGreaterThan(0);
            at += extent.length;
            // Data here is never zero.
            const bytes = expected.subarray(extent.offset, at);
            expect(bytes.every((byte) => (byte === 0) === extent.hole)).toBe(true);
          }
          expect(at).toBe(end);
        }
      }),
      { numRuns: 100 },
    );
  });
});

function fakeLayer(source: ByteSource, rows: readonly SegmentRow[], virtualSize: number): LsmtLayer {
  const identity = { uuid: NO_PARENT_UUID, parentUuid: NO_PARENT_UUID, userTag: '' };
  return { source, segments: segmentTable(rows), virtualSize, ...identity };
}

describe('a read', () => {
  test('is one read of a source for all that is contiguous in it', async () => {
    const bottom = new SpySource(Buffer.alloc(100 * 512, 1));
    const top = new SpySource(Buffer.alloc(100 * 512, 2));
    const device = MergedDevice.open([
      fakeLayer(
        bottom,
        [
          [0, 10, 8, false],
          [10, 10, 18, false],
          [40, 10, 28, false],
        ],
        512 * 60,
      ),
      fakeLayer(
        top,
        [
          [5, 1, 50, false],
          [6, 1, 60, false],
        ],
        512 * 60,
      ),
    ]);
    await device.read(100, Buffer.alloc(50 * 512 - 200));
    expect(bottom.reads).toEqual([
      [8 * 512 + 100, 5 * 512 - 100],
      [15 * 512, 13 * 512],
      [28 * 512, 10 * 512 - 100],
    ]);
    expect(top.reads).toEqual([
      [50 * 512, 512],
      [60 * 512, 512],
    ]);
  });

  test('waits for all sources at once, and to the end also when one fails', async () => {
    let release: () => void = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    let started = 0;
    const slow = {
      size: 51_200,
      read: () => {
        started++;
        return gate;
      },
      close: async () => {},
    };
    const failing = {
      size: 51_200,
      read: async () => {
        started++;
        throw new SourceError('ERR_SOURCE_IO', 'host gone');
      },
      close: async () => {},
    };
    const device = MergedDevice.open([
      fakeLayer(failing, [[0, 1, 8, false]], 1024),
      fakeLayer(slow, [[1, 1, 8, false]], 1024),
    ]);
    let isSettled = false;
    const reading = device.read(0, Buffer.alloc(1024)).finally(() => {
      isSettled = true;
    });
    const outcome = expect(reading).rejects.toMatchObject({ code: 'ERR_SOURCE_IO' });
    await new Promise((resolve) => setImmediate(resolve));
    expect([started, isSettled]).toEqual([2, false]);
    release();
    await outcome;
  });

  test('hands its signal down', async () => {
    const signals: (AbortSignal | undefined)[] = [];
    const source: ByteSource = {
      size: 51_200,
      read: async (_offset, _target, signal) => void signals.push(signal),
      close: async () => {},
    };
    const { signal } = new AbortController();
    await MergedDevice.open([fakeLayer(source, [[0, 1, 8, false]], 512)]).read(0, Buffer.alloc(512), signal);
    expect(signals).toEqual([signal]);
  });

  test('beyond the end is refused', async () => {
    const device = MergedDevice.open([fakeLayer(new BufferSource(Buffer.alloc(0)), [], 1024)]);
    await expect(device.read(1000, Buffer.alloc(25))).rejects.toMatchObject({ code: 'ERR_SOURCE_RANGE' });
    expect(() => [...device.extents(1000, 25)]).toThrowError(SourceError);
  });
});

describe('the size', () => {
  const empty = new BufferSource(Buffer.alloc(0));

  test('is the topmost that is not zero, also when a layer below has segments behind it', async () => {
    const device = MergedDevice.open([
      fakeLayer(empty, [], 4096),
      fakeLayer(new BufferSource(Buffer.alloc(51_200, 7)), [[0, 10, 8, false]], 1000),
      fakeLayer(empty, [], 0),
    ]);
    expect(device.size).toBe(1000);
    expect((await readAll(device)).equals(Buffer.alloc(1000, 7))).toBe(true);
  });

  test('of no layers is zero', () => {
    expect(MergedDevice.open([]).size).toBe(0);
  });
});

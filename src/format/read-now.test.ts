import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { golden } from '../../test/support/golden.ts';
import { BlockMemory } from './block-memory.ts';
import { BufferSource } from './buffer-source.ts';
import type { ByteSource } from './byte-source.ts';
import { FileSource } from './file-source.ts';
import { LsmtLayer } from './lsmt-layer.ts';
import { MergedDevice } from './merged-device.ts';
import { openLayerBlob } from './overlaybd-tar.ts';

const LAYERS = ['ext4/layer1.zstd-16k.tar.obd', 'ext4/layer2.lz4-4k.tar.obd'];

const READS = 300;

let directory: string;
const files: FileSource[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-now-'));
});

afterEach(async () => {
  for (const file of files.splice(0)) await file.close();
  rmSync(directory, { recursive: true });
});

function fileOf(bytes: Buffer, name = 'file'): FileSource {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  const file = FileSource.open(path);
  files.push(file);
  return file;
}

async function device(open: (bytes: Buffer, name: string) => ByteSource, memory?: BlockMemory) {
  const blobs = LAYERS.map((name, index) => open(golden(name).bytes(), String(index)));
  return MergedDevice.open(
    await Promise.all(
      blobs.map(async (blob) => LsmtLayer.open(await openLayerBlob(blob, undefined, memory))),
    ),
  );
}

test.each([undefined, new BlockMemory(256 * 1024)])(
  'a device of compressed layers in files gives at once what reading it gives (%o)',
  async (memory) => {
    const ours = await device(fileOf, memory);
    const judge = await device((bytes) => new BufferSource(bytes));
    let ready = 0;
    for (let i = 0; i < READS; i++) {
      const at = Math.floor((i / READS) * judge.size);
      const target = Buffer.alloc(Math.min((i * 7919) % 40_009, judge.size - at), 0xee);
      const expected = Buffer.alloc(target.length);
      await judge.read(at, expected);
      // A machine that is short of memory may have dropped some of the file.
      if (ours.readNow(at, target)) ready++;
      else await ours.read(at, target);
      expect(target.equals(expected)).toBe(true);
    }
    expect(ready).toBeGreaterThan(READS / 2);
  },
);

test('a file that ends before it should, or is closed, is not ready', async () => {
  const file = fileOf(Buffer.alloc(8192, 7));
  const target = Buffer.alloc(4096);
  truncateSync(join(directory, 'file'), 6000);
  expect(file.readNow(4096, target)).toBe(false);
  await file.close();
  expect(file.readNow(0, target)).toBe(false);
});

test('reads past the end are refused', () => {
  const file = fileOf(Buffer.alloc(8192));
  expect(() => file.readNow(8000, Buffer.alloc(193))).toThrow(
    expect.objectContaining({ code: 'ERR_SOURCE_RANGE' }),
  );
});

test('a damaged block is not ready, and reading it says what is wrong', async () => {
  const bytes = Buffer.from(golden('zfile/small.zstd-4096.crc.zfile').bytes());
  bytes[600]! ^= 1;
  const reader = await openLayerBlob(fileOf(bytes));
  const target = Buffer.alloc(100);
  expect(reader.readNow?.(4090, target)).toBe(false);
  await expect(reader.read(4090, target)).rejects.toMatchObject({ code: 'ERR_SOURCE_CORRUPT' });
  const undamaged = Buffer.alloc(100);
  await reader.read(8192, undamaged);
  expect(reader.readNow?.(8192, target)).toBe(true);
  expect(target).toEqual(undamaged);
});

test('a source that cannot say is not ready', async () => {
  const ours = await device((bytes) => new BufferSource(bytes));
  expect(ours.readNow(0, Buffer.alloc(4096))).toBe(false);
});

test('a block in memory is not asked for again, also for another part of it', async () => {
  const zfile = golden('zfile/small.zstd-4096.crc.zfile').bytes();
  const file = fileOf(zfile);
  const memory = new BlockMemory(1 << 20);
  const reader = await openLayerBlob(file, undefined, memory);
  const first = Buffer.alloc(100);
  await reader.read(10, first);
  await file.close();
  const second = Buffer.alloc(4096);
  expect(reader.readNow?.(0, second)).toBe(true);
  expect(second.subarray(10, 110)).toEqual(first);
  await reader.read(0, second);
  await expect(reader.read(4096, second)).rejects.toThrow();
});

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TarHandler } from '../format/tar-reader.ts';
import { readTar } from './layer-tar.ts';

const directory = mkdtempSync(join(tmpdir(), 'layer-tar-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let tar: Buffer;
let diffId: string;
const content = Buffer.alloc(3_000_000, 'abcdefg');

beforeAll(async () => {
  const archive = pack();
  archive.entry({ name: 'big' }, content);
  archive.entry({ name: 'small' }, 'x');
  archive.finalize();
  tar = await buffer(archive);
  diffId = `sha256:${createHash('sha256').update(tar).digest('hex')}`;
});

class Recorder implements TarHandler {
  readonly files: string[] = [];
  bytes = 0;
  entry() {}
  data(bytes: Buffer) {
    this.bytes += bytes.length;
  }
  hole() {}
  end({ path }: { path: string }) {
    this.files.push(path);
  }
}

function read(bytes: Buffer, compression: 'none' | 'gzip' | 'zstd', expected = diffId) {
  const layerPath = join(directory, 'layer');
  writeFileSync(layerPath, bytes);
  const recorder = new Recorder();
  const size = readTar({ layerPath, compression, diffId: expected }, recorder, () => {});
  return { recorder, size };
}

describe('a layer is read whole and its diff ID checked', () => {
  test.each([
    ['none', (bytes: Buffer) => bytes],
    ['gzip', (bytes: Buffer) => gzipSync(bytes)],
    // As bgzip, pigz and estargz write it.
    [
      'gzip',
      (bytes: Buffer) =>
        Buffer.concat([gzipSync(bytes.subarray(0, 70_001)), gzipSync(bytes.subarray(70_001))]),
    ],
    ['zstd', (bytes: Buffer) => zstdCompressSync(bytes)],
  ] as const)('%s, variant %#', async (compression, pack) => {
    const { recorder, size } = read(pack(tar), compression);
    expect(await size).toBe(tar.length);
    expect(recorder.files).toEqual(['big', 'small']);
    expect(recorder.bytes).toBe(content.length + 1);
  });
});

test('a layer whose content is not what the config names is refused', async () => {
  const other = `sha256:${'0'.repeat(64)}`;
  await expect(read(gzipSync(tar), 'gzip', other).size).rejects.toMatchObject({
    code: 'ERR_CONVERT_DIFF_ID',
  });
});

test.each(['gzip', 'zstd'] as const)('a %s stream that is cut off is refused', async (compression) => {
  const whole = compression === 'gzip' ? gzipSync(tar) : zstdCompressSync(tar);
  const cut = read(whole.subarray(0, whole.length - 200), compression);
  await expect(cut.size).rejects.toMatchObject({
    code: expect.stringMatching(/ERR_CONVERT_STREAM|ERR_TAR_CORRUPT/),
  });
});

test('a stream that is not gzip is refused, and says so', async () => {
  await expect(read(tar, 'gzip').size).rejects.toThrow(/gzip stream is broken/);
});

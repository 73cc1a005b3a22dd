import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TarHandler } from '../format/tar-reader.ts';
import { digestOf } from '../oci/digest.ts';
import { Bell } from './bell.ts';
import { DEFAULT_LIMITS } from './layer-limits.ts';
import { type ReadOptions, readTar } from './layer-tar.ts';
import { SharedWork } from './shared-work.ts';

const [work, bell] = [new SharedWork(), new Bell()];
const hash: ReadOptions['hash'] = (what, algorithm) => work.hash(what, algorithm, bell);

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

function read(bytes: Buffer, expected: { readonly diffId?: string; readonly digest?: string } = {}) {
  const layerPath = join(directory, 'layer');
  writeFileSync(layerPath, bytes);
  const recorder = new Recorder();
  const task = { layerPath, digest: digestOf(bytes), diffId, limits: DEFAULT_LIMITS, ...expected };
  const pieces: number[] = [];
  const size = readTar(task, recorder, { hash, onPiece: (read) => pieces.push(read) });
  return { recorder, size, pieces };
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
  ] as const)('%s, variant %#', (_compression, pack) => {
    const { recorder, size, pieces } = read(pack(tar));
    expect(pieces.at(-1)).toBe(pack(tar).length);
    expect(size).toBe(tar.length);
    expect(recorder.files).toEqual(['big', 'small']);
    expect(recorder.bytes).toBe(content.length + 1);
  });
});

const OTHER = `sha256:${'0'.repeat(64)}`;

test('a layer whose content is not what the config names is refused', () => {
  expect(() => read(gzipSync(tar), { diffId: OTHER })).toThrow(
    expect.objectContaining({ code: 'ERR_CONVERT_DIFF_ID', message: expect.stringContaining(diffId) }),
  );
});

test('a layer whose file is not what the manifest names is refused', () => {
  expect(() => read(gzipSync(tar), { digest: OTHER })).toThrow(
    expect.objectContaining({ code: 'ERR_CONVERT_LAYER_DIGEST' }),
  );
});

test.each([
  ['gzip', () => gzipSync(tar)],
  ['zstd', () => zstdCompressSync(tar)],
])('a %s stream that is cut off is refused, and says so', (format, pack) => {
  const whole = pack();
  expect(() => read(whole.subarray(0, whole.length - 200))).toThrow(
    expect.objectContaining({
      code: 'ERR_CONVERT_STREAM',
      message: expect.stringContaining(`the ${format} stream ends in the middle`),
    }),
  );
});

test('what the caller throws at a piece ends the reading', () => {
  const layerPath = join(directory, 'given-up');
  writeFileSync(layerPath, tar);
  const task = { layerPath, digest: diffId, diffId, limits: DEFAULT_LIMITS };
  const recorder = new Recorder();
  const onPiece = () => {
    throw new Error('enough');
  };
  expect(() => readTar(task, recorder, { hash, onPiece })).toThrow('enough');
  expect(recorder.bytes).toBeLessThan(content.length);
});

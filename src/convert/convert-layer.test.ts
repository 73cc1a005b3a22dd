import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { Worker } from 'node:worker_threads';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { Random } from '../../test/fuzz/random.ts';
import { archiveOf } from '../../test/support/layer-archive.ts';
import { buildStack, stackOfLayers } from '../../test/support/random-layers.ts';
import { snapshotByReader } from '../../test/support/tree-snapshot.ts';
import { ErofsReader } from '../format/erofs-reader.ts';
import { FileSource } from '../format/file-source.ts';
import { LsmtLayer } from '../format/lsmt-layer.ts';
import { MergedDevice } from '../format/merged-device.ts';
import { openLayerBlob } from '../format/overlaybd-tar.ts';
import { Bell } from './bell.ts';
import { convertLayer } from './convert-layer.ts';
import { DEFAULT_LIMITS } from './layer-limits.ts';
import type { LayerTask } from './layer-protocol.ts';
import { LayerWorkers } from './layer-workers.ts';
import { LowerLayers } from './lower-layers.ts';
import { DEFAULT_PROFILE } from './profile.ts';
import { SharedWork } from './shared-work.ts';

/** Nobody else works here. */
const WORK = new SharedWork();
const BELL = new Bell();

const directory = mkdtempSync(join(tmpdir(), 'convert-layer-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const CHAIN_ID = `sha256:${'c'.repeat(64)}`;
let files = 0;

/** Writes the layer into a file and says how to convert it. */
function taskOf(tar: Buffer, pack: (tar: Buffer) => Buffer = (bytes) => bytes, parents = 0): LayerTask {
  const layer = pack(tar);
  const path = join(directory, String(files++));
  writeFileSync(path, layer);
  return {
    layerPath: path,
    digest: digestOf(layer),
    diffId: digestOf(tar),
    chainId: CHAIN_ID,
    parentChainId: parents === 0 ? null : CHAIN_ID,
    profile: DEFAULT_PROFILE,
    limits: DEFAULT_LIMITS,
    outputPath: `${path}.obd`,
  };
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

async function convertHere(task: LayerTask, parentPaths: readonly string[] = []) {
  const below = new LowerLayers();
  try {
    return await convertLayer(task, {
      work: WORK,
      bell: BELL,
      onProgress: () => {},
      parent: () => below.device(parentPaths),
    });
  } finally {
    await below.close();
  }
}

/** Calls `use` with the device that the blobs make up. */
async function withDevice(
  paths: readonly string[],
  use: (device: MergedDevice) => Promise<void>,
): Promise<void> {
  const sources = paths.map((path) => FileSource.open(path));
  try {
    const layers = await Promise.all(sources.map(async (file) => LsmtLayer.open(await openLayerBlob(file))));
    await use(MergedDevice.open(layers));
  } finally {
    await Promise.all(sources.map((source) => source.close()));
  }
}

describe('a stack of archives', () => {
  it('becomes the tree that the image specification asks for, whatever forms the archives have, on a device of just its size', async () => {
    let applied = 0;
    await fc.assert(
      fc.asyncProperty(stackOfLayers(), fc.nat(), async (stack, seed) => {
        const random = new Random(seed);
        const blobs: string[] = [];
        for await (const { draft, contentOf, model, built } of buildStack(stack)) {
          const task = taskOf(archiveOf(draft.entries, contentOf, random), undefined, blobs.length);
          if (built === null) {
            await expect(convertHere(task, blobs)).rejects.toMatchObject({ code: 'ERR_LAYER_CONFLICT' });
            continue;
          }
          await convertHere(task, blobs);
          blobs.push(task.outputPath);
          applied++;
          await withDevice(blobs, async (device) => {
            expect(await snapshotByReader(device)).toEqual(model.snapshot());
            // Nothing to fill up, and nothing that lies outside.
            const { superblock } = await ErofsReader.open(device);
            expect(device.size).toBe(superblock.blocks * 4096);
          });
        }
      }),
      { numRuns: 150, seed: 20_260_803 },
    );
    expect(applied).toBeGreaterThan(200);
  });
});

describe('the same layer', () => {
  let tar: Buffer;
  let expected: { readonly blobDigest: string; readonly chunkTable: Uint8Array };
  beforeAll(async () => {
    const random = new Random('same layer');
    const [stack = []] = fc.sample(stackOfLayers(), { numRuns: 1, seed: 5 });
    const large = random.bytes(9_000_000);
    for await (const { draft, contentOf } of buildStack(stack.slice(0, 1))) {
      // Enough bytes that do not shrink for other threads to be asked for help.
      draft.file('large', large);
      const last = draft.entries.at(-1);
      tar = archiveOf(draft.entries, (entry) => (entry === last ? large : contentOf(entry)), random);
    }
    expected = await convertHere(taskOf(tar));
  });

  const inMembers = (tar: Buffer, length: number, pack: (bytes: Buffer) => Buffer) =>
    Buffer.concat(
      Array.from({ length: Math.ceil(tar.length / length) }, (_, i) =>
        pack(tar.subarray(i * length, (i + 1) * length)),
      ),
    );

  test.each([
    ['gzip', (bytes: Buffer) => gzipSync(bytes, { level: 1 })],
    [
      'gzip of many members',
      (bytes: Buffer) => inMembers(bytes, 65_280, (part) => gzipSync(part, { level: 1 })),
    ],
    ['zstd', (bytes: Buffer) => zstdCompressSync(bytes)],
    ['zstd of many frames', (bytes: Buffer) => inMembers(bytes, 100_003, (part) => zstdCompressSync(part))],
  ])('gives the same blob as %s, which comes in other pieces', async (_, pack) => {
    expect(await convertHere(taskOf(tar, pack))).toMatchObject(expected);
  });

  test.each([1, 3])('gives the same blob with %i threads', async (threads) => {
    const workers = new LayerWorkers(threads);
    try {
      const options = {
        compressedBytes: tar.length,
        onProgress: () => {},
        signal: new AbortController().signal,
      };
      expect(await workers.convert(taskOf(tar), async () => [], options)).toMatchObject({
        blobDigest: expected.blobDigest,
        chunkTable: new Uint8Array(expected.chunkTable),
      });
    } finally {
      await workers.close();
    }
  });

  test('by threads that end by their own hand: one stopped within a native library would end the process', async () => {
    const codes: number[] = [];
    const watch = (worker: Worker) => void worker.on('exit', (code) => codes.push(code));
    process.on('worker', watch);
    const workers = new LayerWorkers(2);
    try {
      const signal = new AbortController().signal;
      // As much as has all threads help.
      const options = { compressedBytes: 2 ** 30, onProgress: () => {}, signal };
      await workers.convert(taskOf(tar), async () => [], options);
    } finally {
      await workers.close();
      process.off('worker', watch);
    }
    expect(codes).toEqual([0, 0]);
  });
});

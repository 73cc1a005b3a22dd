import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterAll, describe, expect, test } from 'vitest';
import { randomBytes } from '../../test/support/random-bytes.ts';
import { MemorySink } from '../../test/support/sinks.ts';
import { BlockCompressor, type BlockOptions } from '../format/zfile-blocks.ts';
import { ZFileWriter } from '../format/zfile-writer.ts';
import { digestOf } from '../oci/digest.ts';
import { Bell } from './bell.ts';
import { DEFAULT_LIMITS } from './layer-limits.ts';
import type { LayerRequest, LayerTask, ThreadData } from './layer-protocol.ts';
import { PieceArea } from './piece-area.ts';
import { DEFAULT_PROFILE } from './profile.ts';
import { SharedPieces } from './shared-pieces.ts';

const LZ4: BlockOptions = { algorithm: 'lz4', blockSize: 4096 };
const ZSTD: BlockOptions = { algorithm: 'zstd', level: 1, blockSize: 32_768 };

/** About 5 MB of which a part can be compressed, and that do not end at a block. */
const data = Buffer.concat([
  randomBytes(1_000_000, 7),
  Buffer.alloc(3_000_001, 'words and more words '),
  randomBytes(999, 8),
]);

function write(options: BlockOptions, shared: { area: PieceArea; bell: Bell } | null): Buffer {
  const sink = new MemorySink();
  const zfile =
    shared === null
      ? new ZFileWriter(sink, options)
      : new ZFileWriter(
          sink,
          options,
          (blocks, take) => new SharedPieces(shared.area, shared.bell, blocks, take),
        );
  for (let at = 0; at < data.length; at += 100_000) zfile.write(data.subarray(at, at + 100_000));
  zfile.finish();
  return sink.bytes;
}

test('an owner that nobody helps compresses all pieces itself, to the same bytes', () => {
  for (const options of [LZ4, ZSTD]) {
    expect(write(options, { area: new PieceArea(), bell: new Bell() }).equals(write(options, null))).toBe(
      true,
    );
  }
});

describe('with a thread that helps', () => {
  const bell = new Bell();
  const area = new PieceArea();
  const workerData: ThreadData = { number: 1, area: new PieceArea().memory, bell: bell.memory };
  const worker = new Worker(new URL('./layer-worker.ts', import.meta.url), { workerData });
  const request: LayerRequest = { type: 'neighbours', areas: [area.memory] };
  worker.postMessage(request);
  afterAll(() => worker.terminate());

  test('the bytes are the same, one layer after the other, with other options too', () => {
    for (let round = 0; round < 5; round++) {
      for (const options of [LZ4, ZSTD]) {
        expect(write(options, { area, bell }).equals(write(options, null))).toBe(true);
      }
    }
  });

  test('it hears of pieces while it has nothing else to do', async () => {
    for (let round = 0; round < 3; round++) {
      area.begin(LZ4);
      data.copy(area.input(0));
      area.fill(0, 100_000);
      bell.ring();
      await expect.poll(() => area.result(0)?.bytes.length ?? 0, { timeout: 20_000 }).toBeGreaterThan(99_000);
    }
  });
});

test('a thread whose own layer waits for those below it helps others meanwhile', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'shared-pieces-'));
  const [bell, area] = [new Bell(), new PieceArea()];
  const workerData: ThreadData = { number: 1, area: new PieceArea().memory, bell: bell.memory };
  const worker = new Worker(new URL('./layer-worker.ts', import.meta.url), { workerData });
  try {
    const layerPath = join(directory, 'layer');
    const emptyTar = Buffer.alloc(1024);
    writeFileSync(layerPath, emptyTar);
    const digest = digestOf(emptyTar);
    const task: LayerTask = {
      layerPath,
      digest,
      diffId: digest,
      chainId: digest,
      parentChainId: digest,
      profile: DEFAULT_PROFILE,
      limits: DEFAULT_LIMITS,
      outputPath: join(directory, 'output'),
    };
    const requests: LayerRequest[] = [
      { type: 'neighbours', areas: [area.memory] },
      { type: 'convert', task },
    ];
    for (const request of requests) worker.postMessage(request);
    expect(await once(worker, 'message')).toEqual([{ type: 'staged' }]);
    area.begin(LZ4);
    area.fill(0, 4096);
    bell.ring();
    await expect.poll(() => area.result(0)?.lengths.length, { timeout: 20_000 }).toBe(1);
  } finally {
    await worker.terminate();
    rmSync(directory, { recursive: true });
  }
});

/** Takes a piece as thread 3, says so, and never finishes it. */
const STUCK = `
  import { parentPort, workerData } from 'node:worker_threads';
  const { BlockCompressor } = await import(workerData.blocks);
  const { PieceArea } = await import(workerData.area);
  BlockCompressor.prototype.compress = () => {
    parentPort.postMessage('taken');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  };
  new PieceArea(workerData.memory).compressOne(3);
`;

test('what a thread had taken that is no more is compressed by another', async () => {
  const area = new PieceArea();
  const stuck = new Worker(new URL(`data:text/javascript,${encodeURIComponent(STUCK)}`), {
    workerData: {
      memory: area.memory,
      blocks: new URL('../format/zfile-blocks.ts', import.meta.url).href,
      area: new URL('./piece-area.ts', import.meta.url).href,
    },
  });
  area.begin(LZ4);
  data.copy(area.input(0));
  area.fill(0, 4096);
  expect(await once(stuck, 'message')).toEqual(['taken']);
  await stuck.terminate();
  expect(area.compressOne(0)).toBe(false);
  area.abandon(3);
  expect(area.compressOne(0)).toBe(true);
  expect(area.result(0)?.lengths.length).toBe(1);
});

test('a piece that cannot be compressed is an error for its owner', () => {
  const area = new PieceArea();
  area.begin(LZ4);
  area.fill(0, 4096);
  const helper = new PieceArea(area.memory);
  const { compress } = BlockCompressor.prototype;
  BlockCompressor.prototype.compress = () => {
    throw new RangeError('no memory');
  };
  try {
    expect(helper.compressOne(1)).toBe(true);
  } finally {
    BlockCompressor.prototype.compress = compress;
  }
  expect(() => area.result(0)).toThrow('a thread could not compress a piece of the layer');
});

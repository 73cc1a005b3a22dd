import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { randomBytes } from '../../test/support/random-bytes.ts';
import { MemorySink } from '../../test/support/sinks.ts';
import type { BlockOptions } from '../format/zfile-blocks.ts';
import { ZFileWriter } from '../format/zfile-writer.ts';
import { digestOf } from '../oci/digest.ts';
import { Bell } from './bell.ts';
import { DEFAULT_LIMITS } from './layer-limits.ts';
import type { LayerRequest, LayerTask, ThreadData } from './layer-protocol.ts';
import { DEFAULT_PROFILE } from './profile.ts';
import { SharedWork } from './shared-work.ts';
import { SlotRing } from './slot-ring.ts';

const LZ4: BlockOptions = { algorithm: 'lz4', blockSize: 4096 };
const ZSTD: BlockOptions = { algorithm: 'zstd', level: 1, blockSize: 32_768 };

/** About 4 MB of which a part can be compressed, and that do not end at a block. */
const data = Buffer.concat([
  randomBytes(1_000_000, 7),
  Buffer.alloc(3_000_001, 'words and more words '),
  randomBytes(999, 8),
]);

const bell = new Bell();
const work = new SharedWork();

function zfile(options: BlockOptions, isShared: boolean): Buffer {
  const sink = new MemorySink();
  const writer = isShared
    ? new ZFileWriter(sink, options, (blocks, take) => work.compressor(bell, blocks, take))
    : new ZFileWriter(sink, options);
  for (let at = 0; at < data.length; at += 100_000) writer.write(data.subarray(at, at + 100_000));
  writer.finish();
  return sink.bytes;
}

function checkAllKinds(): void {
  for (const options of [LZ4, ZSTD]) expect(zfile(options, true).equals(zfile(options, false))).toBe(true);
  const file = work.hash('file', 'sha256', bell);
  const tar = work.hash('tar', 'sha256', bell);
  const digests: string[] = [];
  const chunks = work.chunks(bell, (_chunk, digest) => digests.push(digest.toString('hex')));
  for (let at = 0; at < data.length; at += 200_000) {
    const piece = data.subarray(at, at + 200_000);
    for (const hash of [file, tar]) hash.put(piece.copy(hash.next()));
    chunks.fill(piece.copy(chunks.next()));
    expect(chunks.next().length).toBeGreaterThanOrEqual(200_000);
  }
  chunks.drain();
  expect(file.digest()).toBe(digestOf(data));
  expect(tar.digest()).toBe(digestOf(data));
  file.close();
  tar.close();
  expect(digests.map((hex) => `sha256:${hex}`)).toEqual(
    Array.from({ length: Math.ceil(data.length / 200_000) }, (_, index) =>
      digestOf(data.subarray(index * 200_000, (index + 1) * 200_000)),
    ),
  );
}

test('an owner that nobody helps does all work itself', () => {
  checkAllKinds();
});

describe('with a thread that helps', () => {
  const directory = mkdtempSync(join(tmpdir(), 'shared-work-'));
  const workerData: ThreadData = {
    number: 1,
    work: new SharedWork().memory,
    bell: bell.memory,
    niceness: 10,
  };
  let worker: Worker;
  const say = (request: LayerRequest) => worker.postMessage(request);

  beforeAll(() => {
    worker = new Worker(new URL('./layer-worker.ts', import.meta.url), { workerData });
    say({ type: 'neighbours', work: [work.memory] });
  });
  afterAll(async () => {
    await worker.terminate();
    rmSync(directory, { recursive: true });
  });

  /** Has a piece of work done while this thread refuses to. */
  function expectHelp(): void {
    const untilMs = Date.now() + 20_000;
    const refusal = vi.spyOn(SlotRing.prototype, 'workOnOne').mockImplementation(() => {
      if (Date.now() > untilMs) throw new Error('nobody helped');
      return false;
    });
    try {
      for (let round = 0; round < 3; round++) {
        const digests: Buffer[] = [];
        const chunks = work.chunks(bell, (_chunk, digest) => digests.push(digest));
        chunks.fill(chunks.next().write('a chunk'));
        chunks.drain();
        expect(digests).toHaveLength(1);
      }
    } finally {
      refusal.mockRestore();
    }
  }

  test('the results are the same, one layer after the other', () => {
    for (let round = 0; round < 5; round++) checkAllKinds();
  });

  test('it hears of work while it has nothing else to do', () => {
    expectHelp();
  });

  test('it goes on helping while its own layer waits for those below it', async () => {
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
    say({ type: 'convert', turn: 1, task });
    expect(await once(worker, 'message')).toEqual([{ type: 'staged' }]);
    expectHelp();
    say({ type: 'abort', turn: 1 });
    expect(await once(worker, 'message')).toMatchObject([{ type: 'failed' }]);
    expectHelp();
  });
});

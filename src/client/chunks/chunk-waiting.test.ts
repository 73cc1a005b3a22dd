import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { CHUNK_BYTES, type ChunkedBlob, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { seededRandom } from '../../../test/support/seeded-random.ts';
import { SourceError } from '../../format/byte-source.ts';
import type { CachedBlob } from './cached-blob.ts';
import { ChunkCache } from './chunk-cache.ts';
import type { FetchRange } from './chunk-fetcher.ts';
import { newReadStats } from './read-stats.ts';

let directory: string;
let cache: ChunkCache;
let blobs: CachedBlob[];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-cache-'));
  blobs = [];
  cache = await ChunkCache.open(directory, { bound: { maxBytes: 2 ** 26, minFreeBytes: 0 } });
});

afterEach(async () => {
  await Promise.all(blobs.map((blob) => blob.close()));
  await cache.close();
  rmSync(directory, { recursive: true });
});

async function open(blob: ChunkedBlob, fetch = blob.fetch, timeoutMs = 60_000): Promise<CachedBlob> {
  const { digest, table } = blob;
  const opened = await cache.openBlob({ digest, table, fetch, stats: newReadStats(), timeoutMs });
  blobs.push(opened);
  return opened;
}

async function readChunk(opened: CachedBlob, blob: ChunkedBlob, chunk: number): Promise<void> {
  const target = Buffer.alloc(CHUNK_BYTES);
  await opened.read(chunk * CHUNK_BYTES, target);
  const start = chunk * CHUNK_BYTES;
  if (!target.equals(blob.bytes.subarray(start, start + CHUNK_BYTES)))
    throw new Error(`wrong bytes at ${chunk}`);
}

test('however many reads wait for a source that is away, few requests are made, and all reads end when it is back', async () => {
  const blob = chunkedBlob(1000, 1);
  let isAway = true;
  let failed = 0;
  const opened = await open(blob, async (offset, length, signal) => {
    if (!isAway) return blob.fetch(offset, length, signal);
    failed++;
    throw new Error('connection refused');
  });
  const reads = Array.from({ length: 1000 }, (_, i) => readChunk(opened, blob, (i * 7) % 1000));
  await vi.waitFor(() => expect(failed).toBeGreaterThan(3), { timeout: 30_000 });
  // The first ones go out together; from then on it is one after the other, with pauses.
  expect(failed).toBeLessThan(15);
  isAway = false;
  await Promise.all(reads);
});

test('reads wait as long as they may, then fail; what is here is still served; the next read asks at once', async () => {
  const blob = chunkedBlob(8, 1);
  let isAway = false;
  const opened = await open(
    blob,
    async (offset, length, signal) => {
      if (isAway) throw new Error('connection refused');
      return blob.fetch(offset, length, signal);
    },
    700,
  );
  await readChunk(opened, blob, 0);
  isAway = true;
  const begunMs = performance.now();
  const failing = expect(readChunk(opened, blob, 1)).rejects.toMatchObject({
    code: 'ERR_SOURCE_IO',
    message: expect.stringContaining('within 700 ms'),
    cause: { message: 'connection refused' },
  });
  await readChunk(opened, blob, 0);
  await failing;
  expect(performance.now() - begunMs).toBeGreaterThanOrEqual(699);
  isAway = false;
  await readChunk(opened, blob, 1);
});

test('who waits for the first chunk of a large request has it before the rest has come, and nothing wrong', async () => {
  const blob = chunkedBlob(8, 1);
  const rest = Promise.withResolvers<void>();
  const opened = await open(blob, async (offset, length, _signal, onFilled) => {
    const garbled = Buffer.alloc(length);
    onFilled?.(garbled, CHUNK_BYTES - 1);
    const bytes = Buffer.from(blob.bytes.subarray(offset, offset + length));
    const wrong = Buffer.from(bytes);
    wrong[CHUNK_BYTES]! ^= 1;
    onFilled?.(wrong, 2 * CHUNK_BYTES);
    await rest.promise;
    return bytes;
  });
  const whole = opened.read(0, Buffer.alloc(8 * CHUNK_BYTES));
  await readChunk(opened, blob, 0);
  const second = readChunk(opened, blob, 1);
  const isThere = await Promise.race([second.then(() => true), nextTurn(false)]);
  expect(isThere).toBe(false);
  rest.resolve();
  await Promise.all([whole, second]);
  await readChunk(opened, blob, 7);
});

test('an attempt that is stuck is given up in time for another one', async () => {
  const blob = chunkedBlob(8, 1);
  const answers: FetchRange[] = [() => new Promise(() => {}), blob.fetch];
  const opened = await open(blob, (...args) => answers.shift()!(...args), 2_000);
  await readChunk(opened, blob, 0);
});

test('reads that walk forward find chunks that were fetched ahead, in fewer requests than chunks', async () => {
  const blob = chunkedBlob(600, 1);
  const opened = await open(blob);
  for (let chunk = 0; chunk < 600; chunk++) {
    await readChunk(opened, blob, chunk);
    await nextTurn();
  }
  expect(blob.requests.length).toBeLessThan(40);
  expect(blob.requests.reduce((sum, [, count]) => sum + count, 0)).toBe(600);
});

test('reads that jump fetch what they read and nothing else', async () => {
  const blob = chunkedBlob(4000, 1);
  const opened = await open(blob);
  const random = seededRandom(5);
  const read = new Set<number>();
  for (let i = 0; i < 600; i++) {
    const chunk = random(4000);
    read.add(chunk);
    await readChunk(opened, blob, chunk);
  }
  expect(blob.requests.reduce((sum, [, count]) => sum + count, 0)).toBe(read.size);
});

test('whatever a source does, mixed, no byte is wrong and no read takes longer than it may', async () => {
  const timeoutMs = 4_000;
  const random = seededRandom(11);
  const blob = chunkedBlob(500, 1);
  const faulty: FetchRange = async (offset, length, signal) => {
    const bytes = await blob.fetch(offset, length, signal);
    const fate = random(100);
    if (fate < 8) bytes[random(length)]! ^= 1 << random(8);
    else if (fate < 14) return bytes.subarray(0, random(length));
    else if (fate < 20) throw new Error('connection reset');
    else if (fate < 40) await sleep(random(40), undefined, { signal });
    else if (fate === 99) return new Promise(() => {});
    return bytes;
  };
  const opened = await open(blob, faulty, timeoutMs);
  const other = await open(chunkedBlob(500, 1), faulty);
  let failed = 0;
  let longestMs = 0;
  await Promise.all(
    Array.from({ length: 30 }, async (_, reader) => {
      for (let i = 0; i < 25; i++) {
        const begunMs = performance.now();
        await readChunk(reader % 2 === 0 ? opened : other, blob, random(500)).catch((error: unknown) => {
          if (!(error instanceof SourceError)) throw error;
          failed++;
        });
        longestMs = Math.max(longestMs, performance.now() - begunMs);
      }
    }),
  );
  expect(longestMs).toBeLessThan(3 * timeoutMs);
  expect(failed).toBeLessThan(30);
});

import { createHash } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { golden } from '../../../test/support/golden.ts';
import type { ByteSource } from '../../format/byte-source.ts';
import type { ChunkTable } from '../../format/chunk-table.ts';
import { openLayerBlob } from '../../format/overlaybd-tar.ts';
import { digestOf } from '../../oci/digest.ts';
import { ChunkCache } from './chunk-cache.ts';
import { type FetchRange, FetchRefusedError } from './chunk-fetcher.ts';
import { newReadStats, type ReadStats } from './read-stats.ts';

const CHUNK = 4096;
const SIZE = 10 * CHUNK + 100;
const blob = Buffer.alloc(SIZE, 'every byte of it differs a little').map(
  (byte, i) => byte ^ (i >> 5),
) as Buffer;
const digest = digestOf(blob);
const table = tableOf(blob);

function tableOf(bytes: Buffer): ChunkTable {
  const chunks = Array.from({ length: 11 }, (_, i) => bytes.subarray(i * CHUNK, (i + 1) * CHUNK));
  const digests = Buffer.concat(chunks.map((chunk) => createHash('sha256').update(chunk).digest()));
  return { chunkSize: CHUNK, blobSize: SIZE, digests };
}

let directory: string;
let open: ByteSource[];
let stats: ReadStats;
let requested: [number, number][];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-cache-'));
  open = [];
  requested = [];
  stats = newReadStats();
});

afterEach(async () => {
  await Promise.all(open.map((source) => source.close()));
  rmSync(directory, { recursive: true });
});

const honest: FetchRange = async (offset, length) => Buffer.from(blob.subarray(offset, offset + length));

async function openBlob(
  fetch: FetchRange = honest,
  options: { timeoutMs?: number; cache?: ChunkCache } = {},
): Promise<ByteSource> {
  const { cache = await ChunkCache.open(directory), timeoutMs } = options;
  const source = await cache.openBlob({
    digest,
    table,
    stats,
    fetch: (offset, length, signal) => {
      requested.push([offset / CHUNK, Math.ceil(length / CHUNK)]);
      return fetch(offset, length, signal);
    },
    ...(timeoutMs !== undefined && { timeoutMs }),
  });
  open.push(source);
  return source;
}

async function readAt(
  source: ByteSource,
  offset: number,
  length: number,
  signal?: AbortSignal,
): Promise<Buffer> {
  const target = Buffer.alloc(length, 0xee);
  await source.read(offset, target, signal);
  return target;
}

test('any read gives the bytes of the blob, from network and cache mixed', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 20_000 })), { maxLength: 12 }),
      async (ranges) => {
        const source = await openBlob();
        await Promise.all(
          ranges.map(async ([offset, wanted]) => {
            const length = Math.min(wanted, SIZE - offset);
            const got = await readAt(source, offset, length);
            expect(got.equals(blob.subarray(offset, offset + length))).toBe(true);
          }),
        );
        await source.close();
        for (const name of readdirSync(directory)) rmSync(join(directory, name));
      },
    ),
    { numRuns: 60 },
  );
});

test('what is verified and on disk is read at once, nothing else', async () => {
  const source = await openBlob();
  const target = Buffer.alloc(5000);
  const isReady = (offset: number) => source.readNow?.(offset, target);
  expect(isReady(100)).toBe(false);
  await readAt(source, 0, 2 * CHUNK);
  // The reader has its bytes before the disk has them.
  await vi.waitFor(() => expect(isReady(100)).toBe(true), 30_000);
  expect(target.equals(blob.subarray(100, 5100))).toBe(true);
  expect(isReady(CHUNK)).toBe(false);
  expect(() => isReady(SIZE - 4999)).toThrow(expect.objectContaining({ code: 'ERR_SOURCE_RANGE' }));
  expect(stats.bytesRead).toBe(2 * CHUNK + 5000);

  await source.close();
  const later = await openBlob();
  // What an earlier process left is not believed.
  expect(later.readNow?.(0, target)).toBe(false);
  expect(source.readNow?.(0, target)).toBe(false);
});

test('neighbouring chunks missing in one read are one request, and only the missing ones', async () => {
  const source = await openBlob();
  await readAt(source, 3 * CHUNK, 10);
  await readAt(source, 0, SIZE);
  expect(requested).toEqual([
    [3, 1],
    [0, 3],
    [4, 7],
  ]);
  expect(stats).toEqual({
    requests: 3,
    chunksFetched: 11,
    bytesFetched: SIZE,
    chunksFromMesh: 0,
    bytesFromMesh: 0,
    cacheHits: 1,
    bytesFromCache: 4096,
    bytesRead: SIZE + 10,
  });
});

test('a chunk that many want at once is fetched once', async () => {
  const gate = Promise.withResolvers<void>();
  const source = await openBlob(async (offset, length, signal) => {
    await gate.promise;
    return honest(offset, length, signal);
  });
  const reads = Array.from({ length: 20 }, (_, i) => readAt(source, CHUNK + i, 100));
  gate.resolve();
  for (const [i, bytes] of (await Promise.all(reads)).entries()) {
    expect(bytes.equals(blob.subarray(CHUNK + i, CHUNK + i + 100))).toBe(true);
  }
  expect(requested).toEqual([[1, 1]]);
});

test('a reader that gives up does not end the fetch that others wait for', async () => {
  const gate = Promise.withResolvers<void>();
  const source = await openBlob(async (offset, length, signal) => {
    await gate.promise;
    signal.throwIfAborted();
    return honest(offset, length, signal);
  });
  const impatient = new AbortController();
  const first = readAt(source, 0, 100, impatient.signal);
  const second = readAt(source, 0, 100);
  impatient.abort(new Error('no longer interested'));
  await expect(first).rejects.toThrow('no longer interested');
  gate.resolve();
  expect((await second).equals(blob.subarray(0, 100))).toBe(true);
  expect(requested).toEqual([[0, 1]]);
});

test('the cache is used again after a restart, without a request', async () => {
  const first = await openBlob();
  await readAt(first, 0, SIZE);
  await first.close();
  requested = [];
  const second = await openBlob(() => Promise.reject(new Error('nothing should be fetched')));
  expect((await readAt(second, 0, SIZE)).equals(blob)).toBe(true);
  expect(requested).toEqual([]);
});

test.each([
  [
    'a flipped byte',
    (path: string) => {
      const bytes = readFileSync(path);
      bytes[2 * CHUNK + 17]! ^= 1;
      writeFileSync(path, bytes);
    },
  ],
  [
    'a chunk whose bytes never reached the disk',
    (path: string) => {
      const bytes = readFileSync(path);
      bytes.fill(0, 2 * CHUNK, 3 * CHUNK);
      writeFileSync(path, bytes);
    },
  ],
])('%s in the cache is noticed after a restart: the chunk is fetched again', async (_, damage) => {
  const first = await openBlob();
  await readAt(first, 0, SIZE);
  await first.close();
  damage(join(directory, readdirSync(directory).find((name) => name.endsWith('.data'))!));
  requested = [];
  const second = await openBlob();
  expect((await readAt(second, 0, SIZE)).equals(blob)).toBe(true);
  expect(requested).toEqual([[2, 1]]);
  await second.close();
  requested = [];
  const third = await openBlob();
  await readAt(third, 0, SIZE);
  expect(requested).toEqual([]);
});

test('a cache file that shrinks under a running reader is fetched again', async () => {
  const source = await openBlob();
  await readAt(source, 0, SIZE);
  truncateSync(join(directory, readdirSync(directory).find((name) => name.endsWith('.data'))!), 3 * CHUNK);
  expect((await readAt(source, 2 * CHUNK, 4 * CHUNK)).equals(blob.subarray(2 * CHUNK, 6 * CHUNK))).toBe(true);
});

test('bytes that a disk damaged under a running reader are noticed by their checksum, and fetched again', async () => {
  const layer = golden('ext4/layer2.lz4-4k.tar.obd').bytes();
  const chunks = Array.from({ length: Math.ceil(layer.length / CHUNK) }, (_, i) =>
    createHash('sha256')
      .update(layer.subarray(i * CHUNK, (i + 1) * CHUNK))
      .digest(),
  );
  const cache = await ChunkCache.open(directory);
  const source = await cache.openBlob({
    digest: digestOf(layer),
    table: { chunkSize: CHUNK, blobSize: layer.length, digests: Buffer.concat(chunks) },
    stats,
    fetch: async (offset, length) => Buffer.from(layer.subarray(offset, offset + length)),
  });
  open.push(source);
  const content = await openLayerBlob(source);
  const right = await readAt(content, 0, content.size);
  const isOnDisk = () => source.readNow(0, Buffer.alloc(layer.length));
  await vi.waitFor(() => expect(isOnDisk()).toBe(true), 30_000);
  const path = join(directory, readdirSync(directory).find((name) => name.endsWith('.data'))!);
  const damaged = readFileSync(path);
  damaged[Math.floor(layer.length / 2)]! ^= 1;
  writeFileSync(path, damaged);
  expect((await readAt(content, 0, content.size)).equals(right)).toBe(true);
  expect(cache.figures.healed).toBe(1);
});

test('a lie is asked about a few times, then refused, and never cached', async () => {
  const liar: FetchRange = async (offset, length, signal) => {
    const bytes = await honest(offset, length, signal);
    if (offset <= 5 * CHUNK && offset + length > 5 * CHUNK) bytes[5 * CHUNK - offset]! ^= 0x80;
    return bytes;
  };
  const source = await openBlob(liar);
  await expect(readAt(source, 4 * CHUNK, 3 * CHUNK)).rejects.toMatchObject({ code: 'ERR_SOURCE_CORRUPT' });
  expect(requested).toEqual([[4, 3], ...Array.from({ length: 3 }, () => [5, 1])]);
  // Its honest neighbours are there, itself it is asked for again.
  await readAt(source, 4 * CHUNK, CHUNK);
  await readAt(source, 6 * CHUNK, CHUNK);
  expect(requested).toHaveLength(4);
  await expect(readAt(source, 5 * CHUNK, 1)).rejects.toMatchObject({ code: 'ERR_SOURCE_CORRUPT' });
  await source.close();
  const honestSource = await openBlob();
  requested = [];
  await readAt(honestSource, 5 * CHUNK, 1);
  expect(requested).toEqual([[5, 1]]);
});

test('one wrong answer is got over', async () => {
  const answers: FetchRange[] = [async (_, length) => Buffer.alloc(length), honest];
  const source = await openBlob((...args) => answers.shift()!(...args));
  expect((await readAt(source, 0, 10)).equals(blob.subarray(0, 10))).toBe(true);
  expect(stats.requests).toBe(2);
});

test('an answer of another length than asked for is refused', async () => {
  const source = await openBlob(async (_, length) => Buffer.alloc(length - 1), { timeoutMs: 300 });
  await expect(readAt(source, 0, 10)).rejects.toMatchObject({
    code: 'ERR_SOURCE_IO',
    cause: { code: 'ERR_SOURCE_SHORT' },
  });
});

test('what the registry refuses is not asked for again; the reason is kept, and a later read may succeed', async () => {
  let refuses = true;
  const source = await openBlob((offset, length, signal) => {
    if (refuses) throw new FetchRefusedError('no such blob');
    return honest(offset, length, signal);
  });
  await expect(readAt(source, 0, 10)).rejects.toMatchObject({
    code: 'ERR_SOURCE_IO',
    cause: { code: 'ERR_FETCH_REFUSED' },
  });
  expect(requested).toHaveLength(1);
  refuses = false;
  expect((await readAt(source, 0, 10)).equals(blob.subarray(0, 10))).toBe(true);
});

test('a fetch that hangs fails in bounded time, and close ends one at once', async () => {
  const hang: FetchRange = () => new Promise(() => {});
  const impatient = await openBlob(hang, { timeoutMs: 100 });
  await expect(readAt(impatient, 0, 10)).rejects.toMatchObject({
    code: 'ERR_SOURCE_IO',
    message: expect.stringContaining('within 100 ms'),
  });
  const patient = await openBlob(hang);
  const read = readAt(patient, 0, 10);
  const failed = expect(read).rejects.toMatchObject({ code: 'ERR_SOURCE_IO' });
  await patient.close();
  await failed;
});

test('where no cache files can be made, blobs are read without them, and it is said once', async () => {
  const told: unknown[] = [];
  const cache = await ChunkCache.open(directory, { onWriteError: (error) => told.push(error) });
  await (await openBlob(honest, { cache })).close();
  for (const name of readdirSync(directory)) {
    rmSync(join(directory, name));
    mkdirSync(join(directory, name));
  }
  const source = await openBlob(honest, { cache });
  for (let i = 0; i < 2; i++) expect((await readAt(source, 0, SIZE)).equals(blob)).toBe(true);
  expect(requested).toEqual([[0, 11]]);
  expect(told).toMatchObject([{ code: 'EISDIR' }]);
});

test('two processes that fill the same blob do not lose marks of each other', async () => {
  const one = await openBlob();
  const two = await openBlob();
  for (let i = 0; i < 11; i++) await readAt(i % 2 === 0 ? one : two, i * CHUNK, 1);
  requested = [];
  const three = await openBlob();
  expect((await readAt(three, 0, SIZE)).equals(blob)).toBe(true);
  await readAt(one, 0, SIZE);
  expect(requested).toEqual([]);
});

test('a range outside the blob is refused', async () => {
  const source = await openBlob();
  await expect(readAt(source, SIZE - 1, 2)).rejects.toMatchObject({ code: 'ERR_SOURCE_RANGE' });
});

test('what another image says to be the same blob does not change what was verified', async () => {
  const other = Buffer.alloc(SIZE, 'what a registry of somebody else sends');
  const source = await openBlob();
  await readAt(source, 0, SIZE);
  const cache = await ChunkCache.open(directory);
  const fetch: FetchRange = async (offset, length) => other.subarray(offset, offset + length);
  const liar = await cache.openBlob({ digest, table: tableOf(other), stats, fetch });
  open.push(liar);
  expect((await readAt(liar, 0, SIZE)).equals(other)).toBe(true);
  expect((await readAt(source, 0, SIZE)).equals(blob)).toBe(true);
});

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { CHUNK_BYTES, type ChunkedBlob, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { seededRandom } from '../../../test/support/seeded-random.ts';
import { encodeChunkTable } from '../../format/chunk-table.ts';
import { digestOf } from '../../oci/digest.ts';
import type { CachedBlob } from './cached-blob.ts';
import { type BlobOptions, ChunkCache } from './chunk-cache.ts';
import { newReadStats } from './read-stats.ts';

/** Of a blob of up to 380 chunks: its marks, its table, and a block that the file system may need. */
const OVERHEAD_BYTES = 5 * CHUNK_BYTES;

let directory: string;
let caches: ChunkCache[];
let blobs: CachedBlob[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-cache-'));
  caches = [];
  blobs = [];
});

afterEach(async () => {
  await closeAll();
  rmSync(directory, { recursive: true });
});

async function closeAll(): Promise<void> {
  await Promise.all(blobs.splice(0).map((blob) => blob.close()));
  await Promise.all(caches.splice(0).map((cache) => cache.close()));
}

async function bounded(maxBytes: number, minFreeBytes = 0): Promise<ChunkCache> {
  const cache = await ChunkCache.open(directory, { bound: { maxBytes, minFreeBytes } });
  caches.push(cache);
  return cache;
}

async function open(
  cache: ChunkCache,
  blob: ChunkedBlob,
  options: Partial<BlobOptions> = {},
): Promise<CachedBlob> {
  const { digest, table, fetch } = blob;
  const opened = await cache.openBlob({ digest, table, fetch, stats: newReadStats(), ...options });
  blobs.push(opened);
  return opened;
}

/** Reads whole chunks, and sees that they are right. */
async function readChunks(opened: CachedBlob, blob: ChunkedBlob, first: number, count = 1): Promise<void> {
  const target = Buffer.alloc(count * CHUNK_BYTES);
  await opened.read(first * CHUNK_BYTES, target);
  const start = first * CHUNK_BYTES;
  if (!target.equals(blob.bytes.subarray(start, start + target.length)))
    throw new Error(`wrong bytes at ${first}`);
}

/** Reads one chunk after the other, each when those before are on disk. */
async function walk(
  cache: ChunkCache,
  opened: CachedBlob,
  blob: ChunkedBlob,
  chunks: readonly number[],
): Promise<void> {
  // What is held is what was fetched and has not been dropped, once it is stored.
  const balance = async () => {
    const held = (await heldChunks(cache)).reduce((sum, count) => sum + count, 0);
    return held + cache.figures.evicted - cache.figures.misses;
  };
  const before = await balance();
  for (const chunk of chunks) {
    await readChunks(opened, blob, chunk);
    await vi.waitFor(async () => expect(await balance()).toBe(before), { timeout: 30_000, interval: 2 });
  }
}

async function heldChunks(cache: ChunkCache): Promise<number[]> {
  return (await cache.list()).map((table) => table.heldChunks).sort();
}

/** What the directory really takes. */
function bytesOnDisk(): number {
  return readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).blocks * 512, 0);
}

function fileOf(ending: string): string {
  return join(directory, readdirSync(directory).find((name) => name.endsWith(ending))!);
}

test('a bound is kept while many read at once from more than it holds, and no byte is wrong', async () => {
  const maxBytes = 60 * CHUNK_BYTES;
  const cache = await bounded(maxBytes);
  const many = [1, 3, 5].map((seed) => chunkedBlob(200, seed));
  const opened = await Promise.all(many.map((blob) => open(cache, blob)));
  const random = seededRandom(7);
  let most = 0;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      for (let i = 0; i < 60; i++) {
        await nextTurn();
        const at = random(many.length);
        await readChunks(opened[at]!, many[at]!, random(198), 1 + random(2));
        most = Math.max(most, bytesOnDisk());
      }
    }),
  );
  expect(most).toBeLessThanOrEqual(maxBytes);
  expect(cache.figures.heldBytes).toBeLessThanOrEqual(maxBytes);
  expect(cache.figures.evicted).toBeGreaterThan(10);
  expect(most).toBeGreaterThan(maxBytes / 2);
});

test('what was used least recently goes first', async () => {
  const blob = chunkedBlob(20, 1);
  const cache = await bounded(100 * CHUNK_BYTES);
  const opened = await open(cache, blob);
  await walk(cache, opened, blob, [0, 10, 2, 12, 4, 14, 6, 16]);
  await walk(cache, opened, blob, [0, 10]);
  await cache.trim(cache.figures.heldBytes - 2 * CHUNK_BYTES);
  blob.requests.length = 0;
  await walk(cache, opened, blob, [16, 0, 4, 14, 10, 6]);
  expect(blob.requests).toEqual([]);
  await walk(cache, opened, blob, [2, 12]);
  expect(blob.requests).toEqual([
    [2, 1],
    [12, 1],
  ]);
});

test('after a restart chunks go in the order of their last use, and files without any chunk go too', async () => {
  const [old, young] = [chunkedBlob(8, 1), chunkedBlob(8, 3)];
  const first = await bounded(100 * CHUNK_BYTES);
  const openedOld = await open(first, old);
  const openedYoung = await open(first, young);
  await walk(first, openedYoung, young, [0, 2, 4]);
  await walk(first, openedOld, old, [0, 2, 4]);
  await walk(first, openedYoung, young, [4, 0]);
  await closeAll();
  const second = await bounded(100 * CHUNK_BYTES);
  expect(await heldChunks(second)).toEqual([3, 3]);
  const { heldBytes } = second.figures;
  await second.trim(heldBytes - 1);
  const again = await open(second, young);
  young.requests.length = 0;
  await walk(second, again, young, [0, 4, 2]);
  expect(young.requests).toEqual([[2, 1]]);
  await second.trim(second.figures.heldBytes - 3 * CHUNK_BYTES);
  expect(await second.list()).toMatchObject([{ blobDigest: young.digest, heldChunks: 3, isOpen: true }]);
  expect(readdirSync(directory)).toHaveLength(3);
});

test('a smaller bound than what an earlier process left is kept from the start', async () => {
  const blob = chunkedBlob(30, 1);
  const cache = await bounded(100 * CHUNK_BYTES);
  await readChunks(await open(cache, blob), blob, 0, 30);
  await closeAll();
  await bounded(15 * CHUNK_BYTES);
  expect(bytesOnDisk()).toBeLessThanOrEqual(15 * CHUNK_BYTES);
});

test('what a layer was opened with stays while it is open, and may go afterwards', async () => {
  const [layer, other] = [chunkedBlob(20, 1), chunkedBlob(60, 3)];
  const cache = await bounded(2 * OVERHEAD_BYTES + 12 * CHUNK_BYTES);
  const opened = await open(cache, layer);
  await readChunks(opened, layer, 0);
  await readChunks(opened, layer, 18, 2);
  opened.keepRead();
  const elsewhere = await open(cache, other);
  for (let i = 0; i < 60; i += 2) await readChunks(elsewhere, other, i, 2);
  layer.requests.length = 0;
  await readChunks(opened, layer, 0);
  await readChunks(opened, layer, 18, 2);
  expect(layer.requests).toEqual([]);
  await opened.close();
  await cache.trim(0);
  expect(await cache.list()).toMatchObject([{ blobDigest: other.digest }]);
});

test('a layer that was open opens again by its chunk table on disk, unless that was damaged', async () => {
  const blob = chunkedBlob(4, 1);
  const tableDigest = digestOf(encodeChunkTable(blob.table));
  const cache = await bounded(100 * CHUNK_BYTES);
  expect(cache.chunkTable(tableDigest)).toBeNull();
  await readChunks(await open(cache, blob), blob, 0);
  await closeAll();
  const again = await bounded(100 * CHUNK_BYTES);
  expect(again.chunkTable(tableDigest)).toEqual(blob.table);
  const path = fileOf('.table');
  const bytes = readFileSync(path);
  bytes[40]! ^= 1;
  writeFileSync(path, bytes);
  expect(again.chunkTable(tableDigest)).toBeNull();
});

test('two images that share a layer share what is fetched, and the layer outlives the one that had it first', async () => {
  const blob = chunkedBlob(8, 1);
  const cache = await bounded(100 * CHUNK_BYTES);
  const one = await open(cache, blob);
  const two = await open(cache, blob, { fetch: blob.fetch });
  await Promise.all([readChunks(one, blob, 2), readChunks(two, blob, 2)]);
  expect(blob.requests).toEqual([[2, 1]]);
  expect(cache.figures.openBlobs).toBe(1);
  await one.close();
  await readChunks(two, blob, 3);
  expect(blob.requests).toHaveLength(2);
  await two.close();
  expect(cache.figures.openBlobs).toBe(0);
});

test('where one of two users of a layer is refused, the other one gets the bytes for both', async () => {
  const blob = chunkedBlob(8, 1);
  const cache = await bounded(100 * CHUNK_BYTES);
  const allowed = await open(cache, blob);
  const refused = await open(cache, blob, { fetch: () => Promise.reject(new Error('denied')) });
  await readChunks(refused, blob, 0);
  await readChunks(allowed, blob, 1);
});

test('a chunk that was damaged on disk is fetched again, and counted', async () => {
  const blob = chunkedBlob(4, 1);
  const cache = await bounded(100 * CHUNK_BYTES);
  await readChunks(await open(cache, blob), blob, 0, 4);
  await closeAll();
  const bytes = readFileSync(fileOf('.data'));
  bytes[CHUNK_BYTES + 9]! ^= 1;
  writeFileSync(fileOf('.data'), bytes);
  const again = await bounded(100 * CHUNK_BYTES);
  blob.requests.length = 0;
  await readChunks(await open(again, blob), blob, 0, 4);
  expect(blob.requests).toEqual([[1, 1]]);
  expect(again.figures).toMatchObject({ healed: 1, hits: 3, misses: 1 });
});

test("a cache with a bound is one process's alone; one without is shared", async () => {
  const inUse = { code: 'ERR_CACHE_IN_USE' };
  const shared = [await ChunkCache.open(directory), await ChunkCache.open(directory)];
  await expect(bounded(1)).rejects.toMatchObject(inUse);
  await expect(shared[0]!.trim(0)).rejects.toThrow('other processes');
  for (const cache of shared) await cache.close();
  await bounded(2 ** 20);
  await expect(ChunkCache.open(directory)).rejects.toMatchObject(inUse);
});

test('the list says what is held of which blob, also in a directory that is shared', async () => {
  const blob = chunkedBlob(10, 1);
  const one = await ChunkCache.open(directory);
  caches.push(one);
  const opened = await open(one, blob, { name: 'reg.example/lib/a' });
  await readChunks(opened, blob, 2, 3);
  await opened.close();
  const two = await ChunkCache.open(directory);
  caches.push(two);
  expect(await two.list()).toEqual([
    {
      tableDigest: digestOf(encodeChunkTable(blob.table)),
      blobDigest: blob.digest,
      name: 'reg.example/lib/a',
      blobBytes: 10 * CHUNK_BYTES,
      chunkBytes: CHUNK_BYTES,
      chunks: 10,
      heldChunks: 3,
      heldBytes: expect.any(Number),
      lastUsed: expect.any(Date),
      isOpen: false,
    },
  ]);
});

test('room that a process lost when it was killed between bytes and mark is found again', async () => {
  const blob = chunkedBlob(10, 1);
  const cache = await bounded(100 * CHUNK_BYTES);
  await readChunks(await open(cache, blob), blob, 0, 10);
  await closeAll();
  // The marks of five chunks were never written.
  const uses = readFileSync(fileOf('.uses'));
  uses.fill(0, uses.length - 5 * 8);
  writeFileSync(fileOf('.uses'), uses);
  const again = await bounded(100 * CHUNK_BYTES);
  expect(again.figures.heldBytes).toBe(2 * CHUNK_BYTES + 5 * CHUNK_BYTES);
  expect(statSync(fileOf('.data')).blocks * 512).toBe(5 * CHUNK_BYTES);
});

test('files of a form that is not known make room', async () => {
  const name = 'ab'.repeat(32);
  for (const ending of ['data', 'map', 'uses']) writeFileSync(join(directory, `${name}.${ending}`), 'old');
  writeFileSync(join(directory, 'not ours'), '');
  await bounded(2 ** 20);
  expect(readdirSync(directory)).toEqual(['not ours']);
});

test('a process that is killed while it stores and drops chunks leaves none that is wrong, and no more than the bound', async () => {
  const maxBytes = 60 * CHUNK_BYTES;
  const blob = chunkedBlob(200, 1);
  const child = `
    import { ChunkCache } from ${JSON.stringify(new URL('./chunk-cache.ts', import.meta.url).href)};
    import { chunkedBlob } from ${JSON.stringify(new URL('../../../test/support/chunked-blob.ts', import.meta.url).href)};
    const blob = chunkedBlob(200, 1);
    const bound = { maxBytes: ${maxBytes}, minFreeBytes: 0 };
    const cache = await ChunkCache.open(process.argv[1], { bound });
    const stats = { requests: 0, chunksFetched: 0, bytesFetched: 0, cacheHits: 0, bytesRead: 0 };
    const opened = await cache.openBlob({ ...blob, stats });
    for (let at = 0; ; at = (at + 37) % 200) {
      const chunks = [at, (at + 80) % 200, (at + 120) % 200];
      await Promise.all(chunks.map((chunk) => opened.read(chunk * 4096, Buffer.alloc(4096))));
      console.log(cache.figures.evicted);
    }`;
  for (const afterLines of [40, 71]) {
    const running = spawn(process.execPath, ['--input-type=module', '-e', child, directory], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let lines = 0;
    for await (const line of createInterface(running.stdout)) {
      if (++lines >= afterLines && Number(line) > 20) running.kill('SIGKILL');
    }
    if (running.signalCode === null) await once(running, 'exit');
    const cache = await bounded(maxBytes);
    expect(bytesOnDisk()).toBeLessThanOrEqual(maxBytes);
    const [table] = await cache.list();
    expect(table!.heldChunks).toBeGreaterThan(30);
    blob.requests.length = 0;
    const opened = await open(cache, blob);
    for (let chunk = 0; chunk < 200; chunk++) await readChunks(opened, blob, chunk);
    expect(cache.figures.healed).toBe(0);
    await closeAll();
  }
});

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type ChunkedBlob, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { encodeChunkTable } from '../../format/chunk-table.ts';
import type { CachedBlob } from './cached-blob.ts';
import { type CachedTable, ChunkCache } from './chunk-cache.ts';
import { FetchRefusedError } from './chunk-fetcher.ts';
import { FetchQueue } from './fetch-queue.ts';
import { newReadStats } from './read-stats.ts';
import { TableFiles } from './table-files.ts';
import { UseClock } from './use-clock.ts';

const CHUNKS = 60;
const CHUNK_BYTES = 262_144;
const blob = chunkedBlob(CHUNKS, 1, CHUNK_BYTES);
const TIMEOUT = { timeout: 30_000 };

let directory: string;
let caches: ChunkCache[];
let blobs: CachedBlob[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-races-'));
  caches = [];
  blobs = [];
  blob.requests.length = 0;
});

afterEach(async () => {
  await closeAll();
  rmSync(directory, { recursive: true });
});

async function closeAll(): Promise<void> {
  await Promise.all(blobs.splice(0).map((opened) => opened.close()));
  await Promise.all(caches.splice(0).map((cache) => cache.close()));
}

async function bounded(): Promise<ChunkCache> {
  const cache = await ChunkCache.open(directory, { bound: { maxBytes: 2 ** 26, minFreeBytes: 0 } });
  caches.push(cache);
  return cache;
}

async function open(cache: ChunkCache, { digest, table, fetch }: ChunkedBlob = blob): Promise<CachedBlob> {
  const opened = await cache.openBlob({ digest, table, fetch, stats: newReadStats() });
  blobs.push(opened);
  return opened;
}

/** Chunks whose bytes are not those of the blob, read in both ways. */
async function wrongChunks(opened: CachedBlob): Promise<number[]> {
  const wrong: number[] = [];
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    const start = chunk * CHUNK_BYTES;
    const target = Buffer.alloc(CHUNK_BYTES);
    const isRight = () => target.equals(blob.bytes.subarray(start, start + CHUNK_BYTES));
    if (opened.readNow(start, target) && !isRight()) wrong.push(chunk);
    await opened.read(start, target);
    if (!isRight()) wrong.push(chunk);
  }
  return wrong;
}

/** All of it on disk. */
async function fill(cache: ChunkCache, opened: CachedBlob): Promise<void> {
  await opened.read(0, Buffer.alloc(blob.bytes.length));
  await vi.waitFor(async () => expect((await cache.list())[0]?.heldChunks).toBe(CHUNKS), TIMEOUT);
}

test('chunks that are dropped while they are verified are not taken for chunks on disk', async () => {
  const first = await bounded();
  await fill(first, await open(first));
  await closeAll();
  const cache = await bounded();
  const opened = await open(cache);
  let isRead = false;
  const reading = opened.read(0, Buffer.alloc(blob.bytes.length)).then(() => {
    isRead = true;
  });
  while (!isRead) {
    await cache.trim(0);
    await nextTurn();
  }
  await reading;
  expect(cache.figures.evicted).toBeGreaterThan(0);
  expect(await wrongChunks(opened)).toEqual([]);
});

test('files that were removed under a running process are not believed when they are opened again', async () => {
  const cache = await bounded();
  const opened = await open(cache);
  await fill(cache, opened);
  await opened.close();
  for (const name of readdirSync(directory)) rmSync(join(directory, name));
  const again = await open(cache);
  expect(await wrongChunks(again)).toEqual([]);
});

test('a chunk that is stored twice at once is not dropped before both are done', async () => {
  const record = { chunkSize: CHUNK_BYTES, blobSize: blob.bytes.length, blobDigest: blob.digest, name: null };
  const files = new TableFiles(directory, 'ab'.repeat(32), record, new UseClock(), false);
  await files.open(encodeChunkTable(blob.table));
  const stores = [1, 2].map(() => files.store(0, blob.bytes.subarray(0, CHUNK_BYTES)));
  await Promise.race(stores);
  expect(files.mayDrop(0)).toBe(false);
  await Promise.all(stores);
  expect(files.mayDrop(0)).toBe(true);
  await files.close();
});

test('while a cache is trimmed blobs are opened and read, and who closes it waits for no more than one chunk', async () => {
  const cache = await bounded();
  await fill(cache, await open(cache));
  const trimming = cache.trim(0);
  const other = chunkedBlob(2, 3, CHUNK_BYTES);
  await (await open(cache, other)).read(0, Buffer.alloc(2 * CHUNK_BYTES));
  const isThere = (table: CachedTable) => table.blobDigest === blob.digest && table.heldChunks > 0;
  expect((await cache.list()).some(isThere)).toBe(true);
  await closeAll();
  await trimming;
  const held = (await (await bounded()).list()).find(isThere);
  expect(held?.heldChunks).toBeGreaterThan(0);
});

test('other work goes on while much is verified, from the network and from the disk', async () => {
  let turns = 0;
  let turn = setImmediate(function count() {
    turns++;
    turn = setImmediate(count);
  });
  /** Between the first and the last of 4 MiB. */
  const turnsOfReading = async (opened: CachedBlob): Promise<number> => {
    const all = opened.read(0, Buffer.alloc(16 * CHUNK_BYTES));
    await opened.read(0, Buffer.alloc(1));
    const before = turns;
    await all;
    return turns - before;
  };
  const first = await bounded();
  const opened = await open(first);
  expect(await turnsOfReading(opened)).toBeGreaterThanOrEqual(3);
  await fill(first, opened);
  await closeAll();
  blob.requests.length = 0;
  expect(await turnsOfReading(await open(await bounded()))).toBeGreaterThanOrEqual(3);
  expect(blob.requests).toEqual([]);
  clearImmediate(turn);
});

test('a chunk that comes too late for one read is there for the next one', async () => {
  type Deliver = (index: number, bytes: Buffer) => void;
  const delivers: Deliver[] = [];
  const queue = new FetchQueue({
    name: 'blob',
    chunkSize: CHUNK_BYTES,
    timeoutMs: 400,
    fetch: (_first, _count, _signal, deliver) => {
      delivers.push(deliver);
      return new Promise(() => {});
    },
    keep: async () => {},
    sources: () => 1,
  });
  await expect(queue.get(3, true)).rejects.toMatchObject({ code: 'ERR_SOURCE_IO' });
  const next = queue.get(3, true);
  delivers[0]?.(3, Buffer.from('late'));
  expect(String(await next)).toBe('late');
});

test('a source that refuses does not end the reads that another one may still serve', async () => {
  const cache = await bounded();
  let attempts = 0;
  const opened = await open(cache, {
    ...blob,
    fetch: async (offset, length, signal) => {
      if (++attempts === 1) throw new Error('connection refused');
      return blob.fetch(offset, length, signal);
    },
  });
  const refuses = { ...blob, fetch: () => Promise.reject(new FetchRefusedError('no such blob')) };
  const other = await open(cache, refuses);
  const target = Buffer.alloc(CHUNK_BYTES);
  await opened.read(0, target);
  expect(target.equals(blob.bytes.subarray(0, CHUNK_BYTES))).toBe(true);
  await opened.close();
  await expect(other.read(CHUNK_BYTES, target)).rejects.toMatchObject({
    cause: { code: 'ERR_FETCH_REFUSED' },
  });
});

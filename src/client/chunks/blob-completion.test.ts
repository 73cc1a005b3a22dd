import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { CHUNK_BYTES, type ChunkedBlob, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import type { CompletionProgress } from './blob-completion.ts';
import type { CachedBlob } from './cached-blob.ts';
import { ChunkCache } from './chunk-cache.ts';
import type { FetchRange } from './chunk-fetcher.ts';
import { newReadStats } from './read-stats.ts';

const NO_LIMIT = { bytesPerSecond: 2 ** 40 };

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

async function bounded(maxBytes: number): Promise<ChunkCache> {
  const cache = await ChunkCache.open(directory, { bound: { maxBytes, minFreeBytes: 0 } });
  caches.push(cache);
  return cache;
}

async function open(
  cache: ChunkCache,
  blob: ChunkedBlob,
  fetch: FetchRange = blob.fetch,
): Promise<CachedBlob> {
  const { digest, table } = blob;
  const opened = await cache.openBlob({ digest, table, fetch, stats: newReadStats() });
  blobs.push(opened);
  return opened;
}

test('a blob that was completed needs no source any more, after a restart either', async () => {
  const blob = chunkedBlob(700, 1);
  const cache = await bounded(2 ** 24);
  const opened = await open(cache, blob);
  await opened.read(300 * CHUNK_BYTES, Buffer.alloc(10));
  const seen: CompletionProgress[] = [];
  expect(await opened.complete({ ...NO_LIMIT, onProgress: (progress) => seen.push(progress) })).toBe(
    'complete',
  );
  expect(seen.map(({ heldBytes }) => heldBytes / CHUNK_BYTES)).toEqual([256, 512, 700]);
  expect(blob.requests.reduce((sum, [, count]) => sum + count, 0)).toBe(700);
  await closeAll();
  const away = await open(await bounded(2 ** 24), blob, () => Promise.reject(new Error('away')));
  const bytes = Buffer.alloc(blob.bytes.length);
  await away.read(0, bytes);
  expect(bytes.equals(blob.bytes)).toBe(true);
});

test('no more bytes a second are fetched than allowed; a stop takes effect at once, and the next one goes on', async () => {
  const blob = chunkedBlob(1024, 1);
  const opened = await open(await bounded(2 ** 24), blob);
  const stop = new AbortController();
  const begunMs = performance.now();
  let lastMs = begunMs;
  // A MiB at once, so the third one after 0.4 s.
  const limited = opened.complete({
    bytesPerSecond: 5 * 2 ** 20,
    signal: stop.signal,
    onProgress: ({ heldBytes }) => {
      lastMs = performance.now();
      if (heldBytes === 3 * 2 ** 20) stop.abort(new Error('enough'));
    },
  });
  await expect(limited).rejects.toThrow('enough');
  expect(lastMs - begunMs).toBeGreaterThan(390);
  const before = blob.requests.length;
  expect(await opened.complete(NO_LIMIT)).toBe('complete');
  expect(blob.requests.slice(before)).toEqual([[768, 256]]);
});

test('while a read waits, of whatever blob, nothing more is fetched', async () => {
  const [blob, other] = [chunkedBlob(1024, 1), chunkedBlob(4, 3)];
  const cache = await bounded(2 ** 24);
  const opened = await open(cache, blob);
  const gate = Promise.withResolvers<void>();
  const slow = await open(cache, other, async (...args) => {
    await gate.promise;
    return other.fetch(...args);
  });
  const read = slow.read(0, Buffer.alloc(10));
  const completion = opened.complete(NO_LIMIT);
  // Whatever would be fetched would be so long before this read has come from disk and network.
  await opened.read(1000 * CHUNK_BYTES, Buffer.alloc(10));
  expect(blob.requests).toEqual([[1000, 1]]);
  gate.resolve();
  await read;
  expect(await completion).toBe('complete');
});

test('a source that is away ends it, and what had come stays', async () => {
  const blob = chunkedBlob(600, 1);
  let isAway = true;
  const opened = await open(await bounded(2 ** 24), blob, (offset, ...args) => {
    if (isAway && offset >= 300 * CHUNK_BYTES) throw new Error('connection refused');
    return blob.fetch(offset, ...args);
  });
  await expect(opened.complete(NO_LIMIT)).rejects.toMatchObject({ code: 'ERR_SOURCE_IO' });
  const before = blob.requests.length;
  isAway = false;
  expect(await opened.complete(NO_LIMIT)).toBe('complete');
  expect(blob.requests.slice(before).every(([first]) => first >= 256)).toBe(true);
});

test('room is made at the cost of blobs that nobody has open, and of no other', async () => {
  const [closed, used, wanted] = [chunkedBlob(300, 1), chunkedBlob(300, 3), chunkedBlob(600, 5)];
  const cache = await bounded(1000 * CHUNK_BYTES);
  const opened = await open(cache, closed);
  await opened.complete(NO_LIMIT);
  await opened.close();
  await (await open(cache, used)).complete(NO_LIMIT);
  expect(await (await open(cache, wanted)).complete(NO_LIMIT)).toBe('complete');
  const held = new Map((await cache.list()).map((table) => [table.blobDigest, table.heldChunks]));
  expect(held.get(used.digest)).toBe(300);
  expect(held.get(closed.digest) ?? 0).toBeLessThan(300);
  const more = await open(cache, chunkedBlob(400, 7));
  expect(await more.complete(NO_LIMIT)).toBe('no-room');
  expect((await cache.list()).find((table) => table.blobDigest === used.digest)?.heldChunks).toBe(300);
});

test('a blob that is closed is not completed any further', async () => {
  const blob = chunkedBlob(1024, 1);
  const opened = await open(await bounded(2 ** 24), blob);
  const completion = opened.complete({ bytesPerSecond: 1 });
  await vi.waitFor(() => expect(blob.requests).toHaveLength(1), 30_000);
  await opened.close();
  expect(await completion).toBe('closed');
});

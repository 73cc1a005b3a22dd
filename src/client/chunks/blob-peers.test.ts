import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { CHUNK_BYTES, type ChunkedBlob, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { encodeChunkTable } from '../../format/chunk-table.ts';
import { type Digest, digestHex, digestOf } from '../../oci/digest.ts';
import type { MeshBlob } from '../../p2p/agent/mesh-blob.ts';
import { type BlobOptions, ChunkCache } from './chunk-cache.ts';
import { PeerChunks } from './peer-chunks.ts';
import { newReadStats } from './read-stats.ts';

let directory: string;
let cache: ChunkCache;
let holder: PeerChunks;
let blob: ChunkedBlob;
let table: Digest;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-peers-'));
  await openCache();
  blob = chunkedBlob(12, 1);
  table = digestOf(encodeChunkTable(blob.table));
});

afterEach(async () => {
  await holder.close();
  await cache.close();
  rmSync(directory, { recursive: true });
});

async function openCache(): Promise<void> {
  cache = await ChunkCache.open(directory, {
    bound: { maxBytes: 64 * 1024 * 1024, minFreeBytes: 0 },
    lingerMs: 600_000,
  });
  holder = new PeerChunks({ cache, readTimeoutMs: 60_000 });
}

function open(options: Partial<BlobOptions> = {}) {
  const { digest, fetch } = blob;
  return cache.openBlob({ digest, table: blob.table, fetch, stats: newReadStats(), ...options });
}

function chunkOf(index: number): Buffer {
  return blob.bytes.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES);
}

/** Other hosts that have some of the chunks. */
function peersWith(has: (index: number) => boolean) {
  const asked: [number, number][] = [];
  const peers: MeshBlob & { isClosed: boolean; proxyBytes: number } = {
    isClosed: false,
    proxyBytes: 0,
    fetchRun: async (first, count, _signal, deliver) => {
      asked.push([first, count]);
      const all = Array.from({ length: count }, (_, at) => first + at);
      for (const index of all.filter(has)) deliver(index, Buffer.from(chunkOf(index)));
      return all.filter((index) => !has(index));
    },
    countProxy: (bytes) => {
      peers.proxyBytes += bytes;
    },
    close: async () => {
      peers.isClosed = true;
    },
  };
  return { asked, peers, mesh: { open: () => peers, table: async () => null } };
}

test('what other hosts have comes from them, and only the rest from the proxies, neighbours in one request', async () => {
  const { asked, peers, mesh } = peersWith((index) => index < 2 || index === 5);
  const stats = newReadStats();
  const opened = await open({ mesh, stats });
  const target = Buffer.alloc(8 * CHUNK_BYTES);
  await opened.read(0, target);
  expect(target.equals(blob.bytes.subarray(0, target.length))).toBe(true);
  expect(asked).toEqual([[0, 8]]);
  expect(blob.requests).toEqual([
    [2, 3],
    [6, 2],
  ]);
  expect(peers.proxyBytes).toBe(5 * CHUNK_BYTES);
  expect(stats).toMatchObject({
    chunksFromMesh: 3,
    bytesFromMesh: 3 * CHUNK_BYTES,
    chunksFetched: 5,
    bytesFetched: 5 * CHUNK_BYTES,
    bytesFromCache: 0,
  });
  await opened.read(0, target);
  expect(stats).toMatchObject({ bytesFromCache: 8 * CHUNK_BYTES, chunksFromMesh: 3, chunksFetched: 5 });
  await opened.close();
});

test('without any proxy, what other hosts have can be read', async () => {
  const { mesh } = peersWith(() => true);
  const opened = await open({ mesh, fetch: () => Promise.reject(new Error('no proxy')) });
  const target = Buffer.alloc(CHUNK_BYTES);
  await opened.read(3 * CHUNK_BYTES, target);
  expect(target.equals(chunkOf(3))).toBe(true);
  await opened.close();
});

test('another host gets every chunk of a blob that is open, what is not here too, and no read of this host is counted', async () => {
  const stats = newReadStats();
  const opened = await open({ stats });
  await opened.read(0, Buffer.alloc(CHUNK_BYTES));
  const held = holder.find(table);
  expect(held).toMatchObject({ blob: blob.digest, table: blob.table });
  expect([held?.has(0), held?.has(7)]).toEqual([true, false]);
  const signal = new AbortController().signal;
  expect(await held?.chunk(7, signal)).toEqual(chunkOf(7));
  expect(await held?.chunk(0, signal)).toEqual(chunkOf(0));
  expect(held?.has(7)).toBe(true);
  expect(blob.requests).toEqual([
    [0, 1],
    [7, 1],
  ]);
  expect(stats).toMatchObject({ bytesRead: CHUNK_BYTES, cacheHits: 0 });
  await opened.close();
});

test('another host that reads a chunk which is on its way waits for the same request', async () => {
  const answer = Promise.withResolvers<void>();
  const opened = await open({
    fetch: async (...asked) => {
      await answer.promise;
      return blob.fetch(...asked);
    },
  });
  const target = Buffer.alloc(CHUNK_BYTES);
  const reading = opened.read(2 * CHUNK_BYTES, target);
  const held = holder.find(table);
  expect(held?.has(2)).toBe(true);
  const given = held?.chunk(2, new AbortController().signal);
  answer.resolve();
  expect(await given).toEqual(chunkOf(2));
  await reading;
  expect(blob.requests).toEqual([[2, 1]]);
  await opened.close();
});

test('one that leaves waits no longer, and what it asked for still comes', async () => {
  const answer = Promise.withResolvers<void>();
  const opened = await open({
    fetch: async (...asked) => {
      await answer.promise;
      return blob.fetch(...asked);
    },
  });
  const gone = new AbortController();
  const given = holder.find(table)?.chunk(2, gone.signal);
  gone.abort(new Error('it is gone'));
  await expect(given).rejects.toThrow('it is gone');
  answer.resolve();
  await vi.waitFor(async () => expect((await cache.list())[0]?.heldChunks).toBe(1), 30_000);
  await opened.close();
});

test('of a closed blob another host gets what is on disk, after a restart too, and is told at once what is not', async () => {
  const opened = await open();
  await opened.read(0, Buffer.alloc(3 * CHUNK_BYTES));
  await vi.waitFor(async () => expect((await cache.list())[0]?.heldChunks).toBe(3), 30_000);
  await opened.close();
  const signal = new AbortController().signal;
  for (const isRestarted of [false, true]) {
    if (isRestarted) {
      await holder.close();
      await cache.close();
      await openCache();
    }
    const held = holder.find(table);
    expect([held?.blob, held?.has(2), held?.has(3)]).toEqual([blob.digest, true, false]);
    expect(await held?.chunk(2, signal)).toEqual(chunkOf(2));
    await expect(held?.chunk(3, signal)).rejects.toMatchObject({ code: 'ERR_SOURCE_IO' });
  }
  expect(holder.find(digestOf(Buffer.from('another table')))).toBeNull();
});

test('what rotted on disk is never given to another host', async () => {
  const opened = await open();
  await opened.read(0, Buffer.alloc(CHUNK_BYTES));
  await vi.waitFor(async () => expect((await cache.list())[0]?.heldChunks).toBe(1), 30_000);
  writeFileSync(join(directory, `${digestHex(table)}.data`), Buffer.alloc(CHUNK_BYTES), { flag: 'r+' });
  const signal = new AbortController().signal;
  expect(await holder.find(table)?.chunk(0, signal)).toEqual(chunkOf(0));
  expect(cache.figures.healed).toBe(1);
  await opened.close();
});

test('room that is made while other hosts read does not change what they are given', async () => {
  const opened = await open();
  await opened.read(0, Buffer.alloc(12 * CHUNK_BYTES));
  await vi.waitFor(async () => expect((await cache.list())[0]?.heldChunks).toBe(12), 30_000);
  const held = holder.find(table)!;
  const signal = new AbortController().signal;
  for (let round = 0; round < 5; round++) {
    const given = Array.from({ length: 12 }, (_, index) => held.chunk(index, signal));
    await cache.trim(0);
    for (const [index, bytes] of (await Promise.all(given)).entries()) {
      expect(bytes.equals(chunkOf(index))).toBe(true);
    }
  }
  await cache.trim(0);
  expect(cache.figures.evicted).toBeGreaterThanOrEqual(12);
  expect(await held.chunk(3, signal)).toEqual(chunkOf(3));
  await opened.close();
});

test('a blob with peers goes on for them after its last user has left, and ends with the cache', async () => {
  const { peers, mesh } = peersWith(() => false);
  const first = await open({ mesh });
  await first.close();
  expect(peers.isClosed).toBe(false);
  expect(await holder.find(table)?.chunk(5, new AbortController().signal)).toEqual(chunkOf(5));
  await cache.close();
  expect(peers.isClosed).toBe(true);
  await openCache();
});

test('a disk that fails when a blob is put away that nobody reads any more costs no more than a warning', async () => {
  await cache.close();
  const onWriteError = vi.fn();
  const bound = { maxBytes: 64 * 1024 * 1024, minFreeBytes: 0 };
  cache = await ChunkCache.open(directory, { bound, onWriteError, lingerMs: 1 });
  const opened = await open({ mesh: peersWith(() => false).mesh });
  // What cannot be removed as a file.
  const path = join(directory, `${digestHex(table)}.table`);
  rmSync(path);
  mkdirSync(path);
  await opened.close();
  await vi.waitFor(() => expect(onWriteError).toHaveBeenCalledOnce(), 30_000);
  expect(cache.figures.openBlobs).toBe(0);
});

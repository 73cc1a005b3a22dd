import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { CachedBlob } from '../src/client/chunks/cached-blob.ts';
import { ChunkCache, type ChunkCacheOptions } from '../src/client/chunks/chunk-cache.ts';
import { newReadStats } from '../src/client/chunks/read-stats.ts';
import { requireCapability } from './support/capabilities.ts';
import { CHUNK_BYTES, type ChunkedBlob, chunkedBlob } from './support/chunked-blob.ts';

const DISK_BYTES = 2 * 2 ** 20;

let disk: string;
let told: unknown[];
let cache: ChunkCache;
let opened: CachedBlob;

async function open(blob: ChunkedBlob, options: ChunkCacheOptions): Promise<void> {
  cache = await ChunkCache.open(join(disk, 'cache'), {
    ...options,
    onWriteError: (error) => told.push(error),
  });
  const { digest, table, fetch } = blob;
  opened = await cache.openBlob({ digest, table, fetch, stats: newReadStats() });
}

async function readAll(blob: ChunkedBlob): Promise<void> {
  const bytes = Buffer.alloc(blob.bytes.length);
  await opened.read(0, bytes);
  expect(bytes.equals(blob.bytes)).toBe(true);
}

function fetched(blob: ChunkedBlob): number {
  return blob.requests.reduce((sum, [, count]) => sum + count, 0);
}

function freeBytes(): number {
  const { bavail, bsize } = statfsSync(disk);
  return bavail * bsize;
}

describe.skipIf(!requireCapability('root'))('the chunk cache', () => {
  beforeEach(() => {
    disk = mkdtempSync(join(tmpdir(), 'dadi-disk-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES}`, 'dadi-test', disk]);
    told = [];
  });

  afterEach(async () => {
    await opened.close();
    await cache.close();
    execFileSync('umount', [disk]);
    rmSync(disk, { recursive: true });
  });

  test('on a full disk reads go on from memory, which is said once; what it takes again is not lost by a restart', async () => {
    const blob = chunkedBlob(200, 1);
    const ballast = join(disk, 'ballast');
    writeFileSync(ballast, Buffer.alloc(DISK_BYTES - 100 * CHUNK_BYTES));
    await open(blob, {});
    for (let i = 0; i < 3; i++) await readAll(blob);
    expect(fetched(blob)).toBe(200);
    await vi.waitFor(() => expect(told).toMatchObject([{ code: 'ENOSPC' }]), 30_000);
    truncateSync(ballast);
    await vi.waitFor(
      async () => {
        await readAll(blob);
        expect(await cache.list()).toMatchObject([{ heldChunks: 200 }]);
      },
      { timeout: 60_000, interval: 200 },
    );
    await opened.close();
    await cache.close();
    await open(blob, {});
    await readAll(blob);
    expect(fetched(blob)).toBe(200);
  });

  test('what is to stay free for others stays free, also when they take more', async () => {
    const blob = chunkedBlob(600, 1);
    const minFreeBytes = 200 * CHUNK_BYTES;
    await open(blob, { bound: { maxBytes: 2 ** 40, minFreeBytes } });
    const readInPieces = async () => {
      for (let first = 0; first < 600; first += 20) {
        const bytes = Buffer.alloc(20 * CHUNK_BYTES);
        await opened.read(first * CHUNK_BYTES, bytes);
        expect(bytes.equals(blob.bytes.subarray(first * CHUNK_BYTES, (first + 20) * CHUNK_BYTES))).toBe(true);
      }
    };
    await readInPieces();
    expect(freeBytes()).toBeGreaterThanOrEqual(minFreeBytes);
    const [before] = await cache.list();
    expect(before!.heldChunks).toBeGreaterThan(200);
    writeFileSync(join(disk, 'others'), Buffer.alloc(100 * CHUNK_BYTES));
    // What is free is looked at once in a while.
    await vi.waitFor(
      async () => {
        await readInPieces();
        expect(freeBytes()).toBeGreaterThanOrEqual(minFreeBytes);
      },
      { timeout: 60_000, interval: 200 },
    );
    const [after] = await cache.list();
    expect(after!.heldChunks).toBeLessThan(before!.heldChunks);
    expect(told).toEqual([]);
  });
});

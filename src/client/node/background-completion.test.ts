import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type ChunkedBlob, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import type { CachedBlob } from '../chunks/cached-blob.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import type { FetchRange } from '../chunks/chunk-fetcher.ts';
import { newReadStats } from '../chunks/read-stats.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';
import { BackgroundCompletion } from './background-completion.ts';

const PATIENT = { timeout: 30_000, interval: 20 };

let directory: string;
let cache: ChunkCache;
let blobs: CachedBlob[];
let logged: Record<string, unknown>[];
let completion: BackgroundCompletion;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-cache-'));
  blobs = [];
  logged = [];
  cache = await ChunkCache.open(directory, { bound: { maxBytes: 2 ** 26, minFreeBytes: 0 } });
  const logger = pino({}, { write: (line: string) => void logged.push(JSON.parse(line)) });
  completion = new BackgroundCompletion({ bytesPerSecond: 2 ** 40, delayMs: 0 }, logger);
});

afterEach(async () => {
  completion.close();
  await Promise.all(blobs.map((blob) => blob.close()));
  await cache.close();
  rmSync(directory, { recursive: true });
});

async function open({ digest, table }: ChunkedBlob, fetch: FetchRange): Promise<CachedBlob> {
  const opened = await cache.openBlob({ digest, table, fetch, stats: newReadStats(), timeoutMs: 500 });
  blobs.push(opened);
  return opened;
}

function chainOf(repository: string, { digest }: ChunkedBlob): LazyChain {
  return { chainId: digest, registry: 'reg.example', repository, layers: [] };
}

/** What was logged of an image. */
function logOf(repository: string): unknown[] {
  return logged.filter(({ image }) => image === `reg.example/${repository}`).map(({ msg }) => msg);
}

const FAILED = 'the rest of an image cannot be fetched now';
const COMPLETE = 'an image is here as a whole';

test('an image whose source fails makes way for the others, and is completed when it is back', async () => {
  const [away, there] = [chunkedBlob(10, 1), chunkedBlob(10, 3)];
  let isAway = true;
  const fickle = await open(away, async (...args) => {
    if (isAway) throw new Error('connection refused');
    return away.fetch(...args);
  });
  completion.add(chainOf('away', away), fickle);
  completion.add(chainOf('there', there), await open(there, there.fetch));
  await vi.waitFor(() => expect(logOf('there')).toEqual([COMPLETE]), PATIENT);
  expect(logOf('away')).toContain(FAILED);
  expect(logOf('away')).not.toContain(COMPLETE);
  isAway = false;
  await vi.waitFor(() => expect(logOf('away').at(-1)).toBe(COMPLETE), PATIENT);
});

test('an image that is closed is not tried again', async () => {
  const blob = chunkedBlob(10, 1);
  let requests = 0;
  const opened = await open(blob, async () => {
    requests++;
    throw new Error('connection refused');
  });
  completion.add(chainOf('closed', blob), opened);
  await vi.waitFor(() => expect(logOf('closed')).toEqual([FAILED]), PATIENT);
  const complete = vi.spyOn(opened, 'complete');
  const before = requests;
  await opened.close();
  await vi.waitFor(() => expect(complete).toHaveBeenCalledOnce(), PATIENT);
  expect(await complete.mock.results[0]?.value).toBe('closed');
  expect(requests).toBe(before);
  expect(logOf('closed')).toEqual([FAILED]);
});

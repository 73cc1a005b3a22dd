import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Fault, FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import type { ByteSource } from '../../format/byte-source.ts';
import { digestOf, parseDigest } from '../../oci/digest.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import { newReadStats } from '../chunks/read-stats.ts';
import { Proxies } from './proxies.ts';
import { SourceCredentials } from './source-credentials.ts';

useProxiedRegistry({ tagTtlMs: 60_000, conversion: { enabled: false } });

const CHUNK_BYTES = 262_144;
const BLOB = randomBytes(16 * CHUNK_BYTES + 777, 5);
const CHAIN = { registry: 'reg.example', repository: 'lib/a', chainId: digestOf('chain') };
/** Short, so that what stalls is soon given up; long enough for a busy machine. */
const TIMEOUTS = { connectMs: 10_000, headersMs: 10_000, bodyMs: 3_000 };
const NEVER_MS = 10 * 60_000;

let directory: string;
let first: FaultyRelay;
let second: FaultyRelay;
let proxies: Proxies;
const opened: ByteSource[] = [];
const toClose: { close(): Promise<void> }[] = [];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-faults-'));
  [first, second] = [await FaultyRelay.start(proxy.url), await FaultyRelay.start(proxy.url)];
  proxies = open({ restMs: NEVER_MS });
});

afterEach(async () => {
  await Promise.all(opened.splice(0).map((source) => source.close()));
  for (const each of toClose.splice(0)) await each.close();
  await Promise.all([first, second].map((relay) => relay.stop().catch(() => {})));
  rmSync(directory, { recursive: true });
});

function open(options: { restMs: number; relays?: FaultyRelay[]; bodyMs?: number }): Proxies {
  const { restMs, relays = [first, second], bodyMs = TIMEOUTS.bodyMs } = options;
  const credentials = new SourceCredentials({ file: null, dockerConfig: null });
  const urls = relays.map((relay) => new URL(relay.url));
  const made = new Proxies({ urls, credentials, restMs, timeouts: { ...TIMEOUTS, bodyMs } });
  toClose.push(made);
  return made;
}

/** The blob, kept by the proxy, with nothing of it cached here. */
async function openBlob(from: Proxies, readTimeoutMs = 60_000): Promise<ByteSource> {
  const digest = upstream.putBlob(BLOB);
  const path = `/dadi/v1/chunk-tables/${digest}?ns=reg.example&repository=lib/a&fetch=1&wait=20`;
  const made = await proxy.fetch(path);
  const chunkTableDigest = parseDigest(made.headers.get('docker-content-digest') ?? '');
  const cache = await ChunkCache.open(join(directory, 'cache'));
  toClose.push(cache);
  const access = {
    cache,
    stats: newReadStats(),
    readTimeoutMs,
  };
  const source = await from.openLayer({ digest, sizeBytes: BLOB.length, chunkTableDigest }, CHAIN, access);
  opened.push(source);
  for (const relay of [first, second]) relay.requests.length = 0;
  return source;
}

async function bytesAt(source: ByteSource, offset: number, length: number): Promise<Buffer> {
  const target = Buffer.alloc(length);
  await source.read(offset, target);
  return target;
}

/** Whether a read gives what the blob has there. */
async function isRight(source: ByteSource, offset: number, length: number): Promise<boolean> {
  return (await bytesAt(source, offset, length)).equals(BLOB.subarray(offset, offset + length));
}

const ofBlobs =
  (fault: Fault) =>
  (path: string): Fault | null =>
    path.includes('/blobs/') ? fault : null;

test.each([
  { kind: 'status', status: 503 },
  { kind: 'cut', afterBytes: 100_000 },
  { kind: 'stall', afterBytes: 100_000 },
  { kind: 'flip', atByte: 100_000 },
] as const)(
  'a proxy with the fault $kind is passed over for the next one, and left alone then',
  async (fault) => {
    const source = await openBlob(proxies);
    first.fault = ofBlobs(fault);
    expect(await isRight(source, 0, 3 * CHUNK_BYTES)).toBe(true);
    const asked = first.count('/blobs/');
    expect(asked).toBeGreaterThan(0);
    expect(await isRight(source, 10 * CHUNK_BYTES, 3 * CHUNK_BYTES)).toBe(true);
    expect(first.count('/blobs/')).toBe(asked);
    expect(proxies.states[0]?.lastError).not.toBeNull();
  },
);

test('a proxy that has rested is asked first again', async () => {
  const rested = open({ restMs: 1 });
  const source = await openBlob(rested);
  first.fault = ofBlobs({ kind: 'status', status: 503 });
  expect(await isRight(source, 0, 100)).toBe(true);
  first.fault = () => null;
  await vi.waitFor(() => expect(rested.states[0]?.restingMs).toBe(0), { timeout: 30_000 });
  const asked = second.count('/blobs/');
  expect(await isRight(source, 10 * CHUNK_BYTES, 100)).toBe(true);
  expect(second.count('/blobs/')).toBe(asked);
});

test('after a rest one request tries a proxy, and the others do not wait for what becomes of it', async () => {
  const rested = open({ restMs: 1_000 });
  const source = await openBlob(rested);
  first.fault = ofBlobs({ kind: 'status', status: 503 });
  expect(await isRight(source, 0, 100)).toBe(true);
  await vi.waitFor(() => expect(rested.states[0]?.restingMs).toBe(0), { timeout: 30_000 });
  first.fault = ofBlobs({ kind: 'stall', afterBytes: 5 });
  const asked = first.count('/blobs/');
  const reads = [2, 4, 6, 8, 10].map((chunk) => isRight(source, chunk * CHUNK_BYTES, 100));
  expect(await Promise.all(reads)).not.toContain(false);
  expect(first.count('/blobs/')).toBe(asked + 1);
});

test('what the first proxy does not have is asked of the next one, and the first does not rest for it', async () => {
  const source = await openBlob(proxies);
  first.fault = ofBlobs({ kind: 'status', status: 404 });
  expect(await isRight(source, 0, 100)).toBe(true);
  expect(proxies.states[0]).toMatchObject({ restingMs: 0 });
});

test('a repository whose blobs do not come does not hold up another one', async () => {
  const slow = open({ restMs: NEVER_MS, relays: [first], bodyMs: NEVER_MS });
  first.fault = (path) => (path.includes('/lib/slow/') ? { kind: 'stall', afterBytes: 0 } : null);
  const digest = upstream.putBlob(BLOB);
  const stuck = slow.fetchRange('reg.example', 'lib/slow', digest);
  const closed = new AbortController();
  const waiting = Array.from({ length: 60 }, () => stuck(0, 100, closed.signal).catch(() => {}));
  await vi.waitFor(() => expect(first.count('/lib/slow/')).toBeGreaterThanOrEqual(16), { timeout: 30_000 });
  const fetch = slow.fetchRange('reg.example', 'lib/b', digest);
  expect((await fetch(0, 100, AbortSignal.timeout(15_000))).equals(BLOB.subarray(0, 100))).toBe(true);
  // There are connections left.
  expect(first.count('/lib/slow/')).toBe(16);
  closed.abort();
  await Promise.all(waiting);
});

test('one of two proxies is killed in the middle of reading: nobody notices', async () => {
  const source = await openBlob(proxies);
  const reads: Promise<boolean>[] = [];
  for (let offset = 0; offset < BLOB.length - 1000; offset += CHUNK_BYTES) {
    reads.push(isRight(source, offset + 100, 900));
    if (offset === 8 * CHUNK_BYTES) await reads[0];
    if (offset === 12 * CHUNK_BYTES) await first.stop();
  }
  expect(await Promise.all(reads)).not.toContain(false);
});

test('reads wait while both proxies are gone, and go on when one is back; what is cached needs none', async () => {
  const source = await openBlob(proxies);
  expect(await isRight(source, 0, 100)).toBe(true);
  await Promise.all([first.stop(), second.stop()]);
  const waiting = isRight(source, 10 * CHUNK_BYTES, 5000);
  expect(await isRight(source, 0, 100)).toBe(true);
  await vi.waitFor(() => expect(proxies.states[1]?.lastError).not.toBeNull(), { timeout: 30_000 });
  await second.resume();
  expect(await waiting).toBe(true);
});

test('reads that waited their time fail, and later ones go on by themselves', async () => {
  const source = await openBlob(proxies, 1_000);
  await Promise.all([first.stop(), second.stop()]);
  await expect(bytesAt(source, 0, 100)).rejects.toMatchObject({ code: 'ERR_SOURCE_IO' });
  await first.resume();
  await vi.waitFor(async () => expect(await isRight(source, 0, 100)).toBe(true), { timeout: 30_000 });
});

test('many readers at once, through proxies with random faults, read no wrong byte, and all of them to the end', async () => {
  const source = await openBlob(open({ restMs: 50 }));
  const random = randomBytes(100_000, 11);
  let drawn = 0;
  const draw = (below: number) => random.readUInt32LE(4 * (drawn++ % 20_000)) % below;
  const faults: readonly (() => Fault)[] = [
    () => ({ kind: 'status', status: 503 }),
    () => ({ kind: 'cut', afterBytes: draw(CHUNK_BYTES) }),
    () => ({ kind: 'flip', atByte: draw(CHUNK_BYTES) }),
    () => ({ kind: 'status', status: 500 }),
  ];
  for (const relay of [first, second]) relay.fault = () => (draw(3) === 0 ? faults[draw(4)]!() : null);
  let stalls = 1;
  first.fault = (path) => (stalls-- > 0 ? { kind: 'stall', afterBytes: 5 } : second.fault(path));
  const reader = async () => {
    for (let reads = 0; reads < 12; reads++) {
      const length = 1 + draw(CHUNK_BYTES);
      if (!(await isRight(source, draw(BLOB.length - length), length))) return 'wrong bytes';
    }
    return 'right';
  };
  const results = await Promise.all(Array.from({ length: 8 }, reader));
  expect(new Set(results)).toEqual(new Set(['right']));
  expect(await isRight(source, 0, BLOB.length)).toBe(true);
});

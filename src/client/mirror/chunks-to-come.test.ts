import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import { TestMirror } from '../../../test/support/test-mirror.ts';
import { bytesOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { type ChunkTable, DEFAULT_CHUNK_BYTES } from '../../format/chunk-table.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import type { BlobMesh } from './chunked-blobs.ts';

const BLOB = randomBytes(9 * 1024 * 1024, 977);

let upstream: FakeRegistry;
let proxy: TestProxy;
let relay: FaultyRelay;
let mirror: TestMirror;
let givenBytes: number;
let has: (index: number) => boolean;
/** Openings that are not closed. */
let openings: number;

beforeEach(async () => {
  givenBytes = 0;
  has = () => true;
  openings = 0;
  upstream = await FakeRegistry.start();
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    conversion: { enabled: false },
  });
  relay = await FaultyRelay.start(proxy.url);
  mirror = await TestMirror.start([relay.url], { mesh: otherHosts() });
});

afterEach(async () => {
  await mirror.remove();
  await relay.stop();
  await proxy.remove();
  await upstream.stop();
});

/** They have the blob, or some of its chunks. */
function otherHosts(): BlobMesh {
  const chunkOf = (index: number) =>
    Buffer.from(BLOB.subarray(index * DEFAULT_CHUNK_BYTES, (index + 1) * DEFAULT_CHUNK_BYTES));
  return {
    join: () => {},
    table: async () => null,
    open: (_content: object, _table: ChunkTable) => {
      openings++;
      return {
        fetchRun: async (first, count, _signal, deliver) => {
          const all = Array.from({ length: count }, (_, at) => first + at);
          for (const index of all.filter(has)) {
            givenBytes += chunkOf(index).length;
            deliver(index, chunkOf(index));
          }
          return all.filter((index) => !has(index));
        },
        countProxy: () => {},
        close: async () => {
          openings--;
        },
      };
    },
  };
}

test('a blob that comes from the proxy for want of a chunk table goes on by chunks when there is one', async () => {
  const digest = upstream.putBlob(BLOB);
  // The proxy has it soon; this host is given a part of it, and then nothing more.
  relay.fault = (path) => (path.includes('/blobs/') ? { kind: 'stall', afterBytes: 2_000_000 } : null);
  const answer = await mirror.fetch(`/v2/lib/a/blobs/${digest}?ns=reg.example`);
  expect((await bytesOf(answer)).equals(BLOB)).toBe(true);
  expect(givenBytes).toBeGreaterThan(6 * 1024 * 1024);
});

test('what no host has of the rest comes from the proxy', async () => {
  const digest = upstream.putBlob(BLOB);
  has = (index) => index % 3 === 0;
  let faults = 1;
  relay.fault = (path) =>
    path.includes('/blobs/') && faults-- > 0 ? { kind: 'stall', afterBytes: 2_000_000 } : null;
  const answer = await mirror.fetch(`/v2/lib/a/blobs/${digest}?ns=reg.example`);
  expect((await bytesOf(answer)).equals(BLOB)).toBe(true);
  expect(givenBytes).toBeGreaterThan(1024 * 1024);
});

test('proxies are not asked for the chunks of a blob any more that did not arrive', async () => {
  await mirror.remove();
  mirror = await TestMirror.start([relay.url], { mesh: otherHosts(), readTimeoutMs: 300 });
  const digest = upstream.putBlob(BLOB);
  let answers = 0;
  relay.fault = (path) => {
    if (path.includes('/chunk-tables/')) return { kind: 'status', status: 404 };
    if (!path.includes('/blobs/')) return null;
    return answers++ === 0 ? { kind: 'cut', afterBytes: 2_000_000 } : { kind: 'status', status: 404 };
  };
  const answer = await mirror.fetch(`/v2/lib/a/blobs/${digest}?ns=reg.example`);
  await expect(bytesOf(answer)).rejects.toThrow();
  const asked = relay.count('/chunk-tables/');
  // It would be asked for each second.
  await sleep(1_500);
  expect(relay.count('/chunk-tables/')).toBe(asked);
});

test('a chunk table of another blob breaks the blob off, and leaves nothing open', async () => {
  await mirror.remove();
  const directory = mkdtempSync(join(tmpdir(), 'dadi-chunks-'));
  const cache = await ChunkCache.open(directory, { lingerMs: 1 });
  const mesh = otherHosts();
  const open = vi.spyOn(mesh, 'open');
  mirror = await TestMirror.start([relay.url], { mesh, cache });
  const digest = upstream.putBlob(BLOB);
  const other = upstream.putBlob(BLOB.subarray(1));
  await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${other}?ns=reg.example`));
  relay.fault = (path) => (path.includes('/blobs/') ? { kind: 'stall', afterBytes: 2_000_000 } : null);
  relay.reroute = (path) =>
    path.includes('/chunk-tables/') && relay.count('/blobs/') > 0 ? path.replace(digest, other) : path;
  const answer = await mirror.fetch(`/v2/lib/a/blobs/${digest}?ns=reg.example`);
  await expect(bytesOf(answer)).rejects.toThrow();
  await vi.waitFor(() => expect(openings).toBe(0), 30_000);
  expect(open).toHaveBeenCalled();
  await mirror.stop();
  await cache.close();
  rmSync(directory, { recursive: true });
});

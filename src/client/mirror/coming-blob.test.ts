import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import { TestMirror } from '../../../test/support/test-mirror.ts';
import { TestProxy } from '../../../test/support/test-proxy.ts';
import { type ChunkTable, DEFAULT_CHUNK_BYTES } from '../../format/chunk-table.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import type { HeldContent } from '../../p2p/agent/chunk-holder.ts';
import type { BlobMesh } from './chunked-blobs.ts';

const BLOB = randomBytes(5 * 1024 * 1024 + 7, 977);
const CHUNKS = 21;
/** What comes of it before the registry is let go. */
const FIRST_BYTES = 3 * 1024 * 1024;
const NEVER = new AbortController().signal;

let upstream: FakeRegistry;
let proxy: TestProxy;
let relay: FaultyRelay;
let mirror: TestMirror;
let givenBytes: number;
let has: (index: number) => boolean;
/** Openings that are not closed. */
let openings: number;
const lent = new Map<Digest, HeldContent>();

beforeEach(async () => {
  givenBytes = 0;
  has = () => true;
  openings = 0;
  lent.clear();
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
  return {
    join: () => {},
    table: async () => null,
    lend: (table, content) => {
      lent.set(table, content);
      return () => lent.delete(table);
    },
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

function chunkOf(index: number): Buffer {
  return Buffer.from(BLOB.subarray(index * DEFAULT_CHUNK_BYTES, (index + 1) * DEFAULT_CHUNK_BYTES));
}

/** A blob that the registry stops sending in the middle. */
function slowBlob(digest = digestOf(BLOB)): { readonly digest: Digest; readonly letGo: () => void } {
  upstream.putBlob(BLOB, digest);
  const { promise, resolve } = Promise.withResolvers<void>();
  upstream.intercept = ({ method, url = '' }, response) => {
    if (method !== 'GET' || !url.endsWith(digest)) return false;
    response.writeHead(200, { 'content-length': BLOB.length });
    response.write(BLOB.subarray(0, FIRST_BYTES));
    void promise.then(() => response.end(BLOB.subarray(FIRST_BYTES)));
    return true;
  };
  return { digest, letGo: resolve };
}

/** A pull, and what has come of it so far. */
function pull(digest: Digest) {
  const seen = { bytes: 0 };
  const whole = mirror.fetch(`/v2/lib/a/blobs/${digest}?ns=reg.example`).then(async ({ body }) => {
    const pieces: Uint8Array[] = [];
    for await (const piece of body!) {
      pieces.push(piece);
      seen.bytes += piece.length;
    }
    return Buffer.concat(pieces);
  });
  whole.catch(() => {});
  return { seen, whole };
}

test('what a proxy is fetching comes from other hosts as it comes there, and is asked of the proxy no more', async () => {
  const { digest, letGo } = slowBlob();
  const { seen, whole } = pull(digest);
  // All whole chunks of it.
  await vi.waitFor(() => expect(seen.bytes).toBe(FIRST_BYTES), 30_000);
  letGo();
  expect((await whole).equals(BLOB)).toBe(true);
  expect(givenBytes).toBe(BLOB.length);
  expect(relay.count('/blobs/')).toBe(0);
  await vi.waitFor(() => expect(openings).toBe(0), 30_000);
});

test('what no host has of it comes from the proxy, each chunk once', async () => {
  has = (index) => index % 3 === 0;
  const { digest, letGo } = slowBlob();
  const { seen, whole } = pull(digest);
  await vi.waitFor(() => expect(seen.bytes).toBe(FIRST_BYTES), 30_000);
  letGo();
  expect((await whole).equals(BLOB)).toBe(true);
  const answers = proxy.logged.filter(({ path }) => String(path).includes(`/v2/lib/a/blobs/${digest}`));
  const sentBytes = answers.reduce((sum, { bytes }) => sum + Number(bytes), 0);
  expect(givenBytes + sentBytes).toBeLessThan(1.01 * BLOB.length);
});

test('other hosts are given what has arrived, as it arrives, and the end when the whole is verified', async () => {
  const { digest, letGo } = slowBlob();
  const { seen, whole } = pull(digest);
  await vi.waitFor(() => expect(seen.bytes).toBe(FIRST_BYTES), 30_000);
  const [content] = lent.values();
  expect(content?.blob).toBe(digest);
  expect([content?.has(11), content?.has(12)]).toEqual([true, false]);
  expect((await content!.chunk(11, NEVER)).equals(chunkOf(11))).toBe(true);
  const last = content!.chunk(CHUNKS - 1, NEVER);
  letGo();
  expect((await last).equals(chunkOf(CHUNKS - 1))).toBe(true);
  await whole;
  // Those who are told the whole table by now, and those who were told chunk by chunk.
  expect(lent.size).toBe(2);
  for (const { chunk } of lent.values()) expect((await chunk(0, NEVER)).equals(chunkOf(0))).toBe(true);
});

test('when the proxy tells no more of its chunks, the rest comes as it comes', async () => {
  const { digest, letGo } = slowBlob();
  const { seen, whole } = pull(digest);
  await vi.waitFor(() => expect(seen.bytes).toBe(FIRST_BYTES), 30_000);
  relay.fault = (path) => (path.includes('/chunk-tables/') ? { kind: 'status', status: 404 } : null);
  await relay.stop();
  await relay.resume();
  await vi.waitFor(() => expect(relay.count('/blobs/')).toBe(1), 30_000);
  letGo();
  expect((await whole).equals(BLOB)).toBe(true);
});

test('a blob that turns out to be another one breaks off before its end, and leaves nothing open or lent', async () => {
  const { digest, letGo } = slowBlob(digestOf('another'));
  const { seen, whole } = pull(digest);
  await vi.waitFor(() => expect(seen.bytes).toBe(FIRST_BYTES), 30_000);
  letGo();
  upstream.intercept = () => false;
  await expect(whole).rejects.toThrow();
  expect(seen.bytes).toBeLessThan(BLOB.length);
  await mirror.stop();
  expect([openings, lent.size]).toEqual([0, 0]);
});

test('who asks for a blob that arrives already joins it; when all have left, it is given up', async () => {
  const { digest } = slowBlob();
  const [first, second] = [new AbortController(), new AbortController()];
  const url = `/v2/lib/a/blobs/${digest}?ns=reg.example`;
  const answer = await mirror.fetch(url, { signal: first.signal });
  const other = await mirror.fetch(url, { signal: second.signal });
  expect([answer.status, other.status]).toEqual([200, 200]);
  expect(openings).toBe(1);
  first.abort();
  second.abort();
  await vi.waitFor(() => expect([openings, lent.size]).toEqual([0, 0]), 30_000);
});

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import { TestMirror } from '../../../test/support/test-mirror.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { digestOf } from '../../oci/digest.ts';

const NS = 'ns=reg.example';
const LONG_MS = 30_000;

let upstream: FakeRegistry;
let proxy: TestProxy;
/** Of each test a layer of its own: the proxy keeps what it has seen. */
let large: Buffer;
let seed = 4101;
let relay: FaultyRelay;
let mirror: TestMirror;

/** Even ones give the bytes of the odd one behind them. */
const nextSeed = () => {
  seed += 2;
  return seed;
};

beforeAll(async () => {
  upstream = await FakeRegistry.start();
  const upstreams = [{ name: 'reg.example', url: upstream.url }];
  proxy = await TestProxy.start({ upstreams, tagTtlMs: 0, conversion: { enabled: false } });
});

afterAll(async () => {
  await proxy?.remove();
  await upstream?.stop();
});

beforeEach(async () => {
  large = randomBytes(3_000_001, nextSeed());
  relay = await FaultyRelay.start(proxy.url);
  mirror = await TestMirror.start([relay.url]);
});

afterEach(async () => {
  await mirror.remove();
  await relay.stop();
});

async function blob(path: string, init?: RequestInit): Promise<Buffer> {
  const response = await mirror.fetch(path, init);
  if (!response.ok) throw new Error(`${response.status}`);
  return bytesOf(response);
}

/** Has the proxy get a blob of lib/a, and waits until it has it whole. */
async function storeAtProxy(digest: string): Promise<void> {
  const table = `/dadi/v1/chunk-tables/${digest}?repository=lib/a&${NS}&fetch=1&wait=20`;
  expect((await proxy.fetch(table)).status).toBe(200);
}

/** Pulls a blob as a client would that has nothing, and waits until the mirror keeps it. */
async function pullAndKeep(path: string): Promise<Buffer> {
  const bytes = await blob(path);
  await vi.waitFor(
    async () => {
      // Neither from the proxy nor from the file that it arrived in.
      const before = { requests: relay.requests.length, hits: mirror.server.stats.cacheHits };
      await blob(path, { headers: { range: 'bytes=0-0' } });
      expect(relay.requests).toHaveLength(before.requests);
      expect(mirror.server.stats.cacheHits).toBeGreaterThan(before.hits);
    },
    { timeout: LONG_MS },
  );
  return bytes;
}

describe('manifests', () => {
  test('come by tag and by digest as the proxy has them, with their headers', async () => {
    const image = upstream.putImage([large], '1');
    for (const reference of ['1', image.digest]) {
      const path = `/v2/lib/a/manifests/${reference}?${NS}`;
      const [mine, direct] = await Promise.all([mirror.fetch(path), proxy.fetch(path)]);
      expect(mine.status).toBe(200);
      expect((await bytesOf(mine)).equals(await bytesOf(direct))).toBe(true);
      for (const name of [
        'content-type',
        'docker-content-digest',
        'etag',
        'oci-namespace',
        'content-length',
      ]) {
        expect(mine.headers.get(name), name).toBe(direct.headers.get(name));
      }
      const head = await mirror.fetch(path, { method: 'HEAD' });
      expect(head.headers.get('docker-content-digest')).toBe(image.digest);
      expect(head.headers.get('content-length')).toBe(mine.headers.get('content-length'));
    }
  });

  test('a byte that was changed on the way is never given out: it is asked for again', async () => {
    const image = upstream.putImage([large], '1');
    let faults = 1;
    relay.fault = () => (faults-- > 0 ? { kind: 'flip', atByte: 10 } : null);
    const response = await mirror.fetch(`/v2/lib/a/manifests/${image.digest}?${NS}`);
    expect(digestOf(await bytesOf(response))).toBe(image.digest);
    relay.fault = () => ({ kind: 'flip', atByte: 10 });
    expect(await errorOf(await mirror.fetch(`/v2/lib/a/manifests/1?${NS}`))).toMatchObject({ status: 503 });
  });

  test('by digest, what came through before is there when no proxy is; by tag, and what did not, the client is sent on', async () => {
    const image = upstream.putImage([large], '1');
    const other = upstream.putImage([Buffer.from(`other ${seed}`)], '2');
    await mirror.fetch(`/v2/lib/a/manifests/1?${NS}`);
    await relay.stop();
    expect((await mirror.fetch('/v2/')).status).toBe(200);
    const held = await mirror.fetch(`/v2/lib/a/manifests/${image.digest}?${NS}`);
    expect(digestOf(await bytesOf(held))).toBe(image.digest);
    expect(held.headers.get('warning')).toMatch(/^299 - "/);
    for (const reference of ['1', other.digest]) {
      const answer = await mirror.fetch(`/v2/lib/a/manifests/${reference}?${NS}`);
      expect(await errorOf(answer)).toMatchObject({ status: 503, code: 'UNAVAILABLE' });
    }
    // What one repository has, another one does not have for that reason.
    expect((await mirror.fetch(`/v2/lib/b/manifests/${image.digest}?${NS}`)).status).toBe(503);
    await relay.resume();
  });
});

describe('blobs', () => {
  test('a second pull costs no blob bytes from the proxy', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    expect((await pullAndKeep(path)).equals(large)).toBe(true);
    const before = relay.requests.length;
    expect((await blob(path)).equals(large)).toBe(true);
    expect(relay.requests.slice(before)).toEqual([]);
    expect(mirror.server.stats.bytesFetched).toBe(0);
  });

  test('one that the proxy has is read by its chunks, each verified, and asked for again where it is wrong', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    await storeAtProxy(layer!);
    let wrong = 1;
    relay.fault = (asked) => (asked.includes('/blobs/') && wrong-- > 0 ? { kind: 'flip', atByte: 9 } : null);
    const part = large.subarray(2_000_000, 2_000_100);
    expect(await blob(path, { headers: { range: 'bytes=2000000-2000099' } })).toEqual(part);
    expect(relay.count(`/chunk-tables/${layer}`)).toBe(1);
    expect(mirror.server.stats.bytesFetched).toBeLessThan(large.length);
    const all = await Promise.all([blob(path), blob(path), blob(path)]);
    for (const bytes of all) expect(bytes.equals(large)).toBe(true);
    expect(wrong).toBeLessThanOrEqual(0);
    const fetched = mirror.server.stats.bytesFetched;
    expect(fetched).toBeLessThan(1.7 * large.length);
    expect((await blob(path)).equals(large)).toBe(true);
    expect(mirror.server.stats.bytesFetched).toBe(fetched);
  });

  test("a chunk table that is another blob's, or was changed on its way, is found out: no client gets the wrong blob", async () => {
    const other = randomBytes(large.length, nextSeed());
    const [layer = '', otherLayer = ''] = upstream.putImage([large, other], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    await storeAtProxy(layer);
    await storeAtProxy(otherLayer);
    relay.reroute = (asked) => asked.replace(layer, otherLayer);
    const lying = await mirror.fetch(path);
    expect(lying.status).toBe(200);
    expect(
      await bytesOf(lying).then(
        () => 'whole',
        () => 'broken',
      ),
    ).toBe('broken');
    relay.reroute = (asked) => asked;
    relay.fault = (asked) => (asked.includes('/chunk-tables/') ? { kind: 'flip', atByte: 100 } : null);
    expect((await blob(path)).equals(large)).toBe(true);
  });

  test('any part of one comes as asked for, on its way or kept', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    const check = async () => {
      const size = large.length;
      for (const [range, start, end] of [
        ['bytes=0-0', 0, 1],
        ['bytes=1000000-', 1_000_000, size],
        ['bytes=-5', size - 5, size],
        ['bytes=262143-262144', 262_143, 262_145],
        [`bytes=${size - 1}-${size + 10}`, size - 1, size],
      ] as const) {
        const response = await mirror.fetch(path, { headers: { range } });
        expect(response.status).toBe(206);
        expect(response.headers.get('content-range')).toBe(`bytes ${start}-${end - 1}/${size}`);
        expect((await bytesOf(response)).equals(large.subarray(start, end)), range).toBe(true);
      }
      const beyond = await mirror.fetch(path, { headers: { range: `bytes=${size}-` } });
      expect(beyond.headers.get('content-range')).toBe(`bytes */${size}`);
      expect(await errorOf(beyond)).toMatchObject({ status: 416, code: 'RANGE_INVALID' });
      const head = await mirror.fetch(path, { method: 'HEAD' });
      expect([head.status, head.headers.get('content-length')]).toEqual([200, String(size)]);
      const known = await mirror.fetch(path, { headers: { 'if-none-match': `"${layer}"` } });
      expect(known.status).toBe(304);
    };
    await check();
    await pullAndKeep(path);
    await check();
  });

  test('many clients at once cost one request', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    const all = await Promise.all(Array.from({ length: 8 }, () => blob(path)));
    for (const bytes of all) expect(bytes.equals(large)).toBe(true);
    expect(upstream.count('GET', layer!)).toBe(1);
    expect(relay.count(`/blobs/${layer}`)).toBe(1);
  });

  test.each([
    { fault: { kind: 'cut', afterBytes: 1_000_000 } as const, times: 2 },
    { fault: { kind: 'status', status: 503 } as const, times: 1 },
  ])('one that breaks off on the way ($fault.kind) comes whole', async ({ fault, times }) => {
    const [layer] = upstream.putImage([large], '1').layers;
    let left = times;
    relay.fault = (path) => (path.includes('/blobs/') && left-- > 0 ? fault : null);
    const second = await TestMirror.start([relay.url, proxy.url]);
    try {
      const response = await second.fetch(`/v2/lib/a/blobs/${layer}?${NS}`);
      expect((await bytesOf(response)).equals(large)).toBe(true);
      expect(left).toBeLessThanOrEqual(0);
    } finally {
      await second.remove();
    }
  });

  test('one whose proxy goes away in the middle comes whole when it is back', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    let asked = 0;
    relay.fault = (path) => {
      if (!path.includes('/blobs/')) return null;
      asked++;
      if (asked === 1) return { kind: 'cut', afterBytes: 1_000_000 };
      return asked <= 4 ? { kind: 'status', status: 503 } : null;
    };
    expect((await blob(`/v2/lib/a/blobs/${layer}?${NS}`)).equals(large)).toBe(true);
    expect(asked).toBe(5);
  });

  test.each([100, 2_500_000])(
    'a wrong byte never reaches the end of an answer: of %d bytes',
    async (sizeBytes) => {
      const bytes = large.subarray(0, sizeBytes);
      const [layer] = upstream.putImage([bytes], '1').layers;
      const path = `/v2/lib/a/blobs/${layer}?${NS}`;
      relay.fault = (asked) => (asked.includes('/blobs/') ? { kind: 'flip', atByte: 50 } : null);
      const outcome = await blob(path).then(
        () => 'whole',
        () => 'broken',
      );
      expect(outcome).toBe('broken');
      relay.fault = () => null;
      expect((await blob(path)).equals(bytes)).toBe(true);
    },
  );

  test.each(['before', 'after'] as const)(
    'one whose clients have left %s its first byte is fetched no further',
    async (moment) => {
      const ended = Promise.withResolvers<void>();
      const own = await TestMirror.start([relay.url], { onRequestEnd: () => ended.resolve() });
      try {
        const [layer] = upstream.putImage([large], '1').layers;
        const held = Promise.withResolvers<void>();
        const isBlob = (asked: string) => asked.includes('/blobs/');
        relay.fault = (asked) => (isBlob(asked) ? { kind: 'stall', afterBytes: 1_000_000 } : null);
        relay.hold = (asked) => (isBlob(asked) && moment === 'before' ? held.promise : null);
        const client = new AbortController();
        const path = `/v2/lib/a/blobs/${layer}?${NS}`;
        const answered = own.fetch(path, { signal: client.signal });
        const left = expect(answered.then((answer) => answer.arrayBuffer())).rejects.toThrow();
        await vi.waitFor(() => expect(relay.count('/blobs/')).toBe(1), { timeout: LONG_MS });
        if (moment === 'after') await answered;
        client.abort();
        await left;
        await ended.promise;
        held.resolve();
        // Sooner than a proxy that is silent is given up.
        await vi.waitFor(() => expect(relay.running).toBe(0), { timeout: 10_000 });
        expect(relay.count('/blobs/')).toBe(1);
      } finally {
        await own.remove();
      }
    },
  );

  test('who waited for a right to it while it came to its end gets it whole', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    const body = Promise.withResolvers<void>();
    const right = Promise.withResolvers<void>();
    relay.hold = (asked, method) => {
      if (!asked.includes('/blobs/')) return null;
      return method === 'HEAD' ? right.promise : body.promise;
    };
    const first = blob(path);
    await vi.waitFor(() => expect(relay.count('/blobs/')).toBe(1), { timeout: LONG_MS });
    const second = blob(path, { headers: { authorization: 'Basic b3RoZXI6eA==' } });
    await vi.waitFor(() => expect(relay.count('/chunk-tables/')).toBe(1), { timeout: LONG_MS });
    body.resolve();
    await vi.waitFor(() => expect(relay.count('/blobs/')).toBe(2), { timeout: LONG_MS });
    expect((await first).equals(large)).toBe(true);
    // It is kept, so nobody but the second reads it.
    await vi.waitFor(() => blob(path), { timeout: LONG_MS });
    await vi.waitFor(
      async () => {
        const { cacheHits } = mirror.server.stats;
        await blob(path, { headers: { range: 'bytes=0-0' } });
        expect(mirror.server.stats.cacheHits).toBeGreaterThan(cacheHits);
      },
      { timeout: LONG_MS },
    );
    right.resolve();
    expect((await second).equals(large)).toBe(true);
  });

  test('one that was left in the middle is not begun anew: the rest alone is fetched, and of the proxy alone', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    relay.fault = (asked) => (asked.includes('/blobs/') ? { kind: 'stall', afterBytes: 2_000_000 } : null);
    const client = new AbortController();
    await mirror.fetch(path, { signal: client.signal });
    client.abort();
    relay.fault = () => null;
    await vi.waitFor(() => expect(relay.running).toBe(0), { timeout: LONG_MS });
    await vi.waitFor(async () => expect((await proxy.fetch(path, { method: 'HEAD' })).status).toBe(200), {
      timeout: LONG_MS,
    });
    const rest = await blob(path, { headers: { range: 'bytes=2000000-' } });
    expect(rest.equals(large.subarray(2_000_000))).toBe(true);
    expect(upstream.count('GET', layer!)).toBe(1);
    const { bytesFetched } = mirror.server.stats;
    expect(bytesFetched).toBeGreaterThan(1_000_000);
    expect(bytesFetched).toBeLessThan(1_300_000);
  });

  test('what this host has whole is there when no proxy is, after a restart too; of what it has not, nothing is begun', async () => {
    const { layers } = upstream.putImage([large, Buffer.from(`other ${seed}`)], '1');
    const path = `/v2/lib/a/blobs/${layers[0]}?${NS}`;
    await pullAndKeep(path);
    await relay.stop();
    for (const _ of ['running', 'restarted']) {
      expect((await blob(path)).equals(large)).toBe(true);
      const lacking = await mirror.fetch(`/v2/lib/a/blobs/${layers[1]}?${NS}`);
      expect(await errorOf(lacking)).toMatchObject({ status: 503, code: 'UNAVAILABLE' });
      expect((await mirror.fetch(`/v2/lib/b/blobs/${layers[0]}?${NS}`)).status).toBe(503);
      await mirror.stop();
      await mirror.start();
    }
    await relay.resume();
  });

  test('of a blob that is here in part, that part is there when no proxy is, and the whole is not begun', async () => {
    const [layer] = upstream.putImage([large], '1').layers;
    const path = `/v2/lib/a/blobs/${layer}?${NS}`;
    await storeAtProxy(layer!);
    const headers = { range: 'bytes=0-1048575' };
    await vi.waitFor(
      async () => {
        const { bytesFetched, bytesRead } = mirror.server.stats;
        await blob(path, { headers });
        // The proxy has a table for it, and the chunk is here.
        expect(mirror.server.stats).toMatchObject({ bytesFetched, bytesRead: bytesRead + 1_048_576 });
      },
      { timeout: LONG_MS },
    );
    await relay.stop();
    // What it was told a minute ago counts no more.
    await mirror.stop();
    await mirror.start();
    expect((await blob(path, { headers })).equals(large.subarray(0, 1_048_576))).toBe(true);
    expect(await errorOf(await mirror.fetch(path))).toMatchObject({ status: 503, code: 'UNAVAILABLE' });
    await relay.resume();
  });

  test('what the proxy does not have is not here', async () => {
    const digest = digestOf('nobody has this');
    const answer = await mirror.fetch(`/v2/lib/a/blobs/${digest}?${NS}`);
    expect(await errorOf(answer)).toMatchObject({ status: 404, code: 'BLOB_UNKNOWN' });
  });

  test('an empty one comes', async () => {
    const digest = upstream.putBlob(Buffer.alloc(0));
    for (const _ of ['first', 'second']) {
      const response = await mirror.fetch(`/v2/lib/a/blobs/${digest}?${NS}`);
      expect([response.status, (await bytesOf(response)).length]).toEqual([200, 0]);
    }
  });
});

describe('which registry is meant', () => {
  test('by ns, by a path that begins with a host, or the default one', async () => {
    upstream.putImage([large], '1');
    const other = await TestMirror.start([relay.url], { defaultRegistry: 'reg.example' });
    try {
      expect((await mirror.fetch(`/v2/lib/a/manifests/1?${NS}`)).status).toBe(200);
      expect((await mirror.fetch('/v2/reg.example/lib/a/manifests/1')).status).toBe(200);
      expect((await mirror.fetch('/v2/lib/a/manifests/1')).status).toBe(404);
      expect((await other.fetch('/v2/lib/a/manifests/1')).status).toBe(200);
    } finally {
      await other.remove();
    }
  });

  test('tags come page by page', async () => {
    for (const tag of ['1', '2', '3']) upstream.putImage([large], tag);
    const first = await mirror.fetch('/v2/reg.example/lib/a/tags/list?n=2');
    const next = /^<(?<path>[^>]+)>; rel="next"$/.exec(first.headers.get('link') ?? '')?.groups?.['path'];
    const second = await mirror.fetch(next ?? '');
    const tags = [await first.json(), await second.json()] as { tags: string[] }[];
    expect(tags.map((page) => page.tags)).toEqual([['1', '2'], ['3']]);
  });
});

describe('requests that have no business here', () => {
  test('nothing is written', async () => {
    for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
      const answer = await mirror.fetch(`/v2/lib/a/blobs/uploads/`, { method });
      expect(await errorOf(answer)).toMatchObject({ status: 405, code: 'UNSUPPORTED' });
    }
    expect(relay.requests).toEqual([]);
  });

  test('no path leads to anything of the proxy but what it is to lead to', async () => {
    for (const path of [
      '/dadi/v1/status',
      '/metrics',
      '/v2/%2e%2e/metrics',
      '/v2/lib/a/manifests/..%2f..%2fx',
    ]) {
      expect((await mirror.fetch(path)).status, path).toBeGreaterThanOrEqual(400);
    }
    expect(relay.requests).toEqual([]);
  });
});

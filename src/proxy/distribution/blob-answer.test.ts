import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { brokenBody, bytesOf, errorOf } from '../../../test/support/test-proxy.ts';
import { digestOf } from '../../oci/digest.ts';
import { HELD_BACK_BYTES } from '../content/held-back.ts';

const BIG = randomBytes(3 * 1024 * 1024 + 17);
const SMALL = Buffer.from('small');

useProxiedRegistry();

test('a blob is whole on a miss and on a hit, and upstream is asked once', async () => {
  upstream.putBlob(BIG);
  const digest = digestOf(BIG);
  for (let round = 0; round < 2; round++) {
    const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-length': String(BIG.length),
      'docker-content-digest': digest,
      etag: `"${digest}"`,
      'accept-ranges': 'bytes',
    });
    expect((await bytesOf(response)).equals(BIG)).toBe(true);
  }
  expect(upstream.count('GET', digest)).toBe(1);
  await proxy.allFinished();
});

test('an empty blob is served', async () => {
  const digest = upstream.putBlob(Buffer.alloc(0));
  for (let round = 0; round < 2; round++) {
    const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
    expect(response.status).toBe(200);
    expect((await bytesOf(response)).length).toBe(0);
  }
});

test('HEAD of a blob tells its size without downloading it', async () => {
  const digest = upstream.putBlob(BIG);
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { method: 'HEAD' });
  expect(response.headers.get('content-length')).toBe(String(BIG.length));
  expect(upstream.count('GET', digest)).toBe(0);
  const unknown = await proxy.fetch(`/v2/lib/a/blobs/${digestOf('none')}`, { method: 'HEAD' });
  expect(unknown.status).toBe(404);
  expect(await errorOf(await proxy.fetch(`/v2/lib/a/blobs/${digestOf('none')}`))).toMatchObject({
    status: 404,
    code: 'BLOB_UNKNOWN',
  });
});

test.each([
  ['bytes=0-0', 0, 1],
  ['bytes=500-1499', 500, 1500],
  ['bytes=-500', BIG.length - 500, BIG.length],
  ['bytes=1000-', 1000, BIG.length],
])('a range %s is answered by that part, on a miss and on a hit', async (range, start, end) => {
  const digest = upstream.putBlob(BIG);
  for (let round = 0; round < 2; round++) {
    const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range } });
    expect(response.status).toBe(206);
    expect(response.headers.get('content-range')).toBe(`bytes ${start}-${end - 1}/${BIG.length}`);
    expect((await bytesOf(response)).equals(BIG.subarray(start, end))).toBe(true);
  }
  expect(upstream.count('GET', digest)).toBe(1);
});

test('a range outside the blob is refused with its size', async () => {
  const digest = upstream.putBlob(SMALL);
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range: 'bytes=5-' } });
  expect(response.headers.get('content-range')).toBe('bytes */5');
  expect(await errorOf(response)).toMatchObject({ status: 416, code: 'RANGE_INVALID' });
});

test('fifty readers of one blob are one download, each gets all of it', async () => {
  const digest = upstream.putBlob(BIG);
  const readers = Array.from({ length: 50 }, async () => {
    const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
    return (await bytesOf(response)).equals(BIG);
  });
  expect((await Promise.all(readers)).every((whole) => whole)).toBe(true);
  expect(upstream.count('GET', digest)).toBe(1);
});

/** Sends the first half of a blob and waits for `go` before the rest. */
function sendInHalves(bytes: Buffer, go: Promise<unknown>): void {
  upstream.intercept = (request, response) => {
    if (request.method !== 'GET' || !request.url?.includes('/blobs/')) return false;
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, bytes.length / 2));
    void go.then(() => response.end(bytes.subarray(bytes.length / 2)));
    return true;
  };
}

test('a reader gets bytes while they arrive, also one that comes later', async () => {
  const digest = upstream.putBlob(BIG);
  const go = Promise.withResolvers<void>();
  sendInHalves(BIG, go.promise);
  const readers = [];
  for (let count = 0; count < 2; count++) {
    const reader = (await proxy.fetch(`/v2/lib/a/blobs/${digest}`)).body!.getReader();
    const { value } = await reader.read();
    expect(value!.length).toBeGreaterThan(0);
    readers.push({ reader, bytes: value!.length });
  }
  go.resolve();
  for (const { reader, bytes } of readers) {
    let total = bytes;
    for (let next = await reader.read(); !next.done; next = await reader.read()) total += next.value.length;
    expect(total).toBe(BIG.length);
  }
  expect(upstream.count('GET', digest)).toBe(1);
});

test('a reader that leaves does not end the download for others, nor for the store', async () => {
  const digest = upstream.putBlob(BIG);
  const go = Promise.withResolvers<void>();
  sendInHalves(BIG, go.promise);
  const leaving = new AbortController();
  const left = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { signal: leaving.signal });
  const stayed = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  leaving.abort();
  await expect(left.arrayBuffer()).rejects.toThrow();
  go.resolve();
  expect((await bytesOf(stayed)).equals(BIG)).toBe(true);

  const other = randomBytes(1_000_000);
  const lonely = upstream.putBlob(other);
  const later = Promise.withResolvers<void>();
  sendInHalves(other, later.promise);
  const controller = new AbortController();
  await proxy.fetch(`/v2/lib/a/blobs/${lonely}`, { signal: controller.signal });
  controller.abort();
  await sleep(50);
  later.resolve();
  await proxy.allFinished();
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${lonely}`))).equals(other)).toBe(true);
  expect(upstream.count('GET', lonely)).toBe(1);
});

test('a range during a download waits until the whole is verified', async () => {
  const digest = upstream.putBlob(BIG);
  const go = Promise.withResolvers<void>();
  sendInHalves(BIG, go.promise);
  const whole = bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`));
  const part = proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range: 'bytes=0-9' } });
  expect(await Promise.race([part, sleep(100, 'waiting')])).toBe('waiting');
  go.resolve();
  expect(await bytesOf(await part)).toEqual(BIG.subarray(0, 10));
  await whole;
});

test('the rest of a blob comes while it arrives, but for its end', async () => {
  const digest = upstream.putBlob(BIG);
  const go = Promise.withResolvers<void>();
  sendInHalves(BIG, go.promise);
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range: 'bytes=1000-' } });
  expect(response.status).toBe(206);
  expect(response.headers.get('content-range')).toBe(`bytes 1000-${BIG.length - 1}/${BIG.length}`);
  const reader = response.body!.getReader();
  const pieces: Uint8Array[] = [];
  for (let bytes = 0; bytes < BIG.length / 2 - 1001; bytes += pieces.at(-1)!.length) {
    pieces.push((await reader.read()).value!);
  }
  go.resolve();
  for (let next = await reader.read(); !next.done; next = await reader.read()) pieces.push(next.value);
  expect(Buffer.concat(pieces).equals(BIG.subarray(1000))).toBe(true);
  expect(upstream.count('GET', digest)).toBe(1);
});

test('no part out of wrong bytes is ever complete, though it is there long before the end', async () => {
  const wrong = Buffer.from(BIG);
  wrong[5]! ^= 1;
  const digest = upstream.putBlob(wrong, digestOf(BIG));
  const go = Promise.withResolvers<void>();
  sendInHalves(wrong, go.promise);
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range: 'bytes=0-999999' } });
  const broken = brokenBody(response);
  await sleep(200);
  go.resolve();
  expect((await broken).length).toBe(1_000_000 - HELD_BACK_BYTES);
});

test('a short part has its headers before clients give up, and its bytes once they are verified', async () => {
  const digest = upstream.putBlob(BIG);
  const go = Promise.withResolvers<void>();
  sendInHalves(BIG, go.promise);
  const startedMs = performance.now();
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range: 'bytes=0-9' } });
  expect(performance.now() - startedMs).toBeLessThan(10_000);
  const body = bytesOf(response);
  expect(await Promise.race([body, sleep(100, 'waiting')])).toBe('waiting');
  go.resolve();
  expect(await body).toEqual(BIG.subarray(0, 10));
});

test('wrong bytes break the connection before the last of them, and nothing is kept', async () => {
  const digest = upstream.putBlob(BIG);
  const wrong = Buffer.from(BIG);
  wrong[5]! ^= 1;
  upstream.putBlob(wrong, digest);
  for (let round = 0; round < 2; round++) {
    const body = await brokenBody(await proxy.fetch(`/v2/lib/a/blobs/${digest}`));
    expect(body.length).toBeLessThanOrEqual(BIG.length - HELD_BACK_BYTES);
    const range = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range: 'bytes=0-9' } });
    expect(await errorOf(range)).toMatchObject({ status: 502, message: expect.stringContaining(digest) });
    expect(proxy.unfinished()).toEqual([]);
  }
  upstream.putBlob(BIG);
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
});

test('wrong bytes of a small blob are told as an error', async () => {
  const digest = upstream.putBlob(Buffer.from('other'), digestOf(SMALL));
  const refused = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  expect(await errorOf(refused)).toMatchObject({ status: 502, message: expect.stringContaining(digest) });
  expect(proxy.unfinished()).toEqual([]);
  expect(proxy.logged.filter((line) => line['msg'] === 'request failed')).toHaveLength(1);
});

/** Sends some bytes of what was asked for and cuts the connection. */
function breakOff(bytes: Buffer, afterBytes: number, times: number): void {
  let left = times;
  upstream.intercept = (request, response) => {
    if (request.method !== 'GET' || !request.url?.includes('/blobs/') || left-- <= 0) return false;
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, afterBytes), () => response.destroy());
    return true;
  };
}

test('a download that breaks off goes on where it was', async () => {
  const digest = upstream.putBlob(BIG);
  breakOff(BIG, 1_000_000, 1);
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
  const ranges = upstream.requests.filter((seen) => seen.method === 'GET').map((seen) => seen.range);
  expect(ranges).toHaveLength(2);
  expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-$/);
});

test('a connection that breaks after the last byte has done its work', async () => {
  const digest = upstream.putBlob(BIG);
  upstream.intercept = (request, response) => {
    if (request.method !== 'GET' || !request.url?.includes('/blobs/')) return false;
    response.writeHead(200, { 'transfer-encoding': 'chunked' });
    // Not at once: what the client has not read when the connection breaks is lost.
    response.write(BIG, () => setTimeout(() => response.destroy(), 500));
    return true;
  };
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
  expect(upstream.count('GET', digest)).toBe(1);
});

test('a download goes on from upstreams that do not know ranges, too', async () => {
  const digest = upstream.putBlob(BIG);
  let times = 0;
  upstream.intercept = (request, response) => {
    if (request.method !== 'GET' || !request.url?.includes('/blobs/')) return false;
    response.writeHead(200, { 'content-length': BIG.length });
    if (times++ === 0) response.write(BIG.subarray(0, 1_000_000), () => response.destroy());
    else response.end(BIG);
    return true;
  };
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
});

test('a download that always breaks off is given up, and nothing is kept', async () => {
  const digest = upstream.putBlob(BIG);
  breakOff(BIG, 200_000, Number.POSITIVE_INFINITY);
  await brokenBody(await proxy.fetch(`/v2/lib/a/blobs/${digest}`));
  expect(upstream.count('GET', digest)).toBeLessThan(20);
  expect(proxy.unfinished()).toEqual([]);
  upstream.intercept = () => false;
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
}, 60_000);

test('an upstream that vanishes during a download breaks the connection, and nothing is kept', async () => {
  const digest = upstream.putBlob(BIG);
  sendInHalves(BIG, new Promise(() => {}));
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  await upstream.stop();
  await brokenBody(response);
  expect(proxy.unfinished()).toEqual([]);
  const refused = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  expect(await errorOf(refused)).toMatchObject({ status: 503, code: 'UNAVAILABLE' });
}, 60_000);

test.each([-7, 7])(
  'a Content-Length that is wrong by %i bytes never makes a blob',
  async (difference) => {
    const digest = upstream.putBlob(BIG);
    upstream.intercept = (request, response) => {
      if (request.method !== 'GET' || !request.url?.includes('/blobs/')) return false;
      const length = BIG.length + difference;
      const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
      if (start > 0) response.writeHead(206, { 'content-range': `bytes ${start}-${length - 1}/${length}` });
      else response.writeHead(200, { 'content-length': length });
      response.write(BIG.subarray(start, length), () => response.destroy());
      return true;
    };
    await brokenBody(await proxy.fetch(`/v2/lib/a/blobs/${digest}`));
    expect(proxy.unfinished()).toEqual([]);
    upstream.intercept = () => false;
    expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
  },
  60_000,
);

test('a blob that one repository has is not given to another that does not', async () => {
  const image = upstream.putImage([BIG]);
  await proxy.fetch(`/v2/lib/a/manifests/${image.digest}`);
  await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`));
  upstream.intercept = (request, response) => {
    if (request.url?.startsWith('/v2/lib/a/') !== false) return false;
    response.writeHead(404).end();
    return true;
  };
  const before = upstream.requests.length;
  for (const path of [`blobs/${image.layers[0]}`, `manifests/${image.digest}`]) {
    const known = await proxy.fetch(`/v2/lib/a/${path}`);
    expect(known.status).toBe(200);
    await bytesOf(known);
    expect((await proxy.fetch(`/v2/lib/b/${path}`)).status).toBe(404);
    expect((await proxy.fetch(`/v2/lib/b/${path}`, { method: 'HEAD' })).status).toBe(404);
  }
  expect(upstream.requests.slice(before).every((seen) => seen.path.startsWith('/v2/lib/b/'))).toBe(true);
  upstream.intercept = () => false;
  expect((await bytesOf(await proxy.fetch(`/v2/lib/c/blobs/${image.layers[0]}`))).equals(BIG)).toBe(true);
  expect(upstream.count('GET', image.layers[0]!)).toBe(1);
});

test('a slow reader does not make the proxy hold the blob in memory', async () => {
  const huge = randomBytes(64 * 1024 * 1024);
  const digest = upstream.putBlob(huge);
  await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { headers: { range: 'bytes=0-0' } }));
  const before = process.memoryUsage();
  const responses: IncomingMessage[] = [];
  for (let count = 0; count < 20; count++) {
    const request = httpRequest(`${proxy.url}/v2/lib/a/blobs/${digest}`).end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    responses.push(response);
  }
  await sleep(300);
  const grown = process.memoryUsage().arrayBuffers - before.arrayBuffers;
  for (const response of responses) response.destroy();
  expect(grown).toBeLessThan(20 * 2 * 1024 * 1024);
});

test('closing ends downloads and connections, and leaves nothing unfinished', async () => {
  const digest = upstream.putBlob(BIG);
  sendInHalves(BIG, new Promise(() => {}));
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  const broken = brokenBody(response);
  await proxy.stop();
  await broken;
  expect(proxy.unfinished()).toEqual([]);
}, 60_000);

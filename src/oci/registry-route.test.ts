import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';
import { digestOf } from './digest.ts';
import { encodeJson } from './manifest.ts';
import { OCI_CONFIG, OCI_MANIFEST } from './media-types.ts';
import { RegistryClient, type RegistryClientOptions } from './registry-client.ts';

/** Mirrors, limits and slowness: what no real registry shows on demand. Real ones are in test/upstreams.test.ts. */
type Handler = (request: IncomingMessage, response: ServerResponse) => unknown;

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Served {
  readonly url: URL;
  readonly seen: { method: string; url: string; headers: IncomingMessage['headers'] }[];
  handler: Handler;
  connections: () => number;
}

async function serve(handler: Handler): Promise<Served> {
  const seen: Served['seen'] = [];
  let connections = 0;
  const server = createServer((request, response) => {
    const { method = '', url = '', headers } = request;
    seen.push({ method, url, headers });
    served.handler(request, response);
  }).on('connection', () => connections++);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    server.close();
    server.closeAllConnections();
  });
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  const served: Served = { url, seen, handler, connections: () => connections };
  return served;
}

function clientOf(baseUrl: URL, options: Omit<RegistryClientOptions, 'baseUrl'> = {}): RegistryClient {
  const client = new RegistryClient({ baseUrl, retry: { retries: 0 }, ...options });
  cleanups.push(() => client.close());
  return client;
}

const answer =
  (status: number, headers: Record<string, string | number> = {}, body: Buffer | string = ''): Handler =>
  (_request, response) =>
    response.writeHead(status, { 'content-length': Buffer.byteLength(body), ...headers }).end(body);

const blob = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251));
const digest = digestOf(blob);
const manifest = encodeJson({
  schemaVersion: 2,
  config: { mediaType: OCI_CONFIG, digest, size: 1 },
  layers: [],
});
const manifestDigest = digestOf(manifest);
const good: Handler = (request, response) =>
  request.url?.includes('/manifests/')
    ? answer(200, { 'content-type': OCI_MANIFEST }, manifest)(request, response)
    : answer(200, {}, blob)(request, response);
const reset: Handler = (request) => request.destroy();
const breakOff: Handler = (_request, response) => {
  response.writeHead(200, { 'content-length': blob.length });
  response.write(blob.subarray(0, 5000), () => response.destroy());
};

test.each([
  ['gives no answer', reset, true],
  ['fails', answer(500), true],
  ['sends other bytes', answer(200, {}, 'something else'), true],
  ['lacks it', answer(404), false],
  ['refuses us', answer(401), false],
  ['limits us', answer(429, { 'retry-after': 3600 }), true],
])(
  'a mirror that %s is passed over for the next, and asked again at once only if it is well',
  async (_what, bad, isLeft) => {
    const [first, second, registry] = [await serve(bad), await serve(good), await serve(good)];
    const client = clientOf(registry.url, { mirrors: [{ baseUrl: first.url }, { baseUrl: second.url }] });
    for (let times = 0; times < 2; times++) {
      expect(await client.manifest('lib/a', manifestDigest)).toMatchObject({ bytes: manifest });
    }
    expect(first.seen).toHaveLength(isLeft ? 1 : 2);
    expect([second.seen.length, registry.seen.length]).toEqual([2, 0]);
    expect(client.endpoints()[0]).toMatchObject({
      isMirror: true,
      lastError: expect.stringContaining(first.url.host),
    });
  },
);

test('a mirror that has rested is asked again', async () => {
  const [mirror, registry] = [await serve(reset), await serve(good)];
  const client = clientOf(registry.url, { mirrors: [{ baseUrl: mirror.url }], mirrorRestMs: 50 });
  await client.manifest('lib/a', '1');
  expect(registry.seen).toHaveLength(1);
  mirror.handler = good;
  await sleep(100);
  await client.manifest('lib/a', '1');
  expect([mirror.seen.length, registry.seen.length]).toEqual([2, 1]);
});

test("the registry's word counts: its error is the answer when no mirror has it", async () => {
  const [mirror, registry] = [await serve(answer(500)), await serve(answer(404))];
  const client = clientOf(registry.url, { mirrors: [{ baseUrl: mirror.url }] });
  await expect(client.manifest('lib/a', '1')).rejects.toMatchObject({
    code: 'ERR_REGISTRY_NOT_FOUND',
    host: registry.url.host,
  });
});

test('a download that breaks off at a mirror goes on at the registry', async () => {
  const ranged: Handler = (request, response) => {
    const first = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1]);
    const headers = { 'content-range': `bytes ${first}-${blob.length - 1}/${blob.length}` };
    answer(206, headers, blob.subarray(first))(request, response);
  };
  const [mirror, registry] = [await serve(breakOff), await serve(ranged)];
  const client = clientOf(registry.url, { mirrors: [{ baseUrl: mirror.url }] });
  const pieces: Buffer[] = [];
  const { body } = await client.blob('lib/a', digest);
  await expect(
    (async () => {
      for await (const piece of body) pieces.push(piece);
    })(),
  ).rejects.toThrow();
  const rest = await client.blob('lib/a', digest, { offset: Buffer.concat(pieces).length });
  expect(Buffer.concat([...pieces, ...(await rest.body.toArray())])).toEqual(blob);
  expect([mirror.seen.length, registry.seen.length]).toEqual([1, 1]);
});

test('a mirror whose blob turned out to be another is passed over', async () => {
  const [mirror, registry] = [await serve(answer(200, {}, 'lies')), await serve(good)];
  const client = clientOf(registry.url, { mirrors: [{ baseUrl: mirror.url }] });
  const download = await client.blob('lib/a', digest);
  await download.body.toArray();
  download.distrust();
  const again = await client.blob('lib/a', digest);
  expect(Buffer.concat(await again.body.toArray())).toEqual(blob);
  expect(registry.seen).toHaveLength(1);
});

test('mirrors are told which registry is meant, the registry is not; credentials of each stay with it', async () => {
  const mustLogin: Handler = (request, response) =>
    request.headers.authorization === undefined
      ? answer(401, { 'www-authenticate': 'Basic realm="x"' })(request, response)
      : answer(404)(request, response);
  const [mirror, registry] = [await serve(mustLogin), await serve(mustLogin)];
  const client = clientOf(registry.url, {
    credentials: { username: 'a', password: 'origin' },
    mirrors: [
      {
        baseUrl: mirror.url,
        namespace: 'docker.io',
        credentials: { username: 'a', password: 'mirror' },
      },
    ],
  });
  await expect(client.tags('lib/a')).rejects.toMatchObject({ status: 404 });
  const basic = (password: string) => `Basic ${Buffer.from(`a:${password}`).toString('base64')}`;
  const told = ({ seen }: Served) => seen.map(({ url, headers }) => [url, headers.authorization]);
  expect(told(mirror)[1]).toEqual(['/v2/lib/a/tags/list?n=1000&ns=docker.io', basic('mirror')]);
  expect(told(registry)[1]).toEqual(['/v2/lib/a/tags/list?n=1000', basic('origin')]);
  // A caller's own are for the registry to judge, and for nobody else to see.
  const before = mirror.seen.length;
  await expect(client.withAuthorization('Bearer x').tags('lib/a')).rejects.toMatchObject({ status: 404 });
  expect(mirror.seen).toHaveLength(before);
});

test('what a registry says of its limits is kept, and is null before', async () => {
  const limits = { 'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': '76;w=21600' };
  const { url } = await serve((request, response) =>
    answer(200, { 'content-type': OCI_MANIFEST, ...limits }, manifest)(request, response),
  );
  const client = clientOf(url);
  expect(client.quota()).toBeNull();
  await client.manifest('lib/a', '1');
  expect(client.quota()).toMatchObject({ limit: 100, remaining: 76, windowSeconds: 21_600 });
  expect(client.quota()?.observedAtMs).toBeLessThanOrEqual(Date.now());
});

test('a registry that limits pulls is not asked for manifests before its time, but for what does not count', async () => {
  const registry = await serve((request, response) =>
    request.method === 'GET' && request.url?.includes('/manifests/')
      ? answer(429, { 'retry-after': '3600' })(request, response)
      : good(request, response),
  );
  const client = clientOf(registry.url);
  await expect(client.manifest('lib/a', '1')).rejects.toMatchObject({ retryAfterMs: 3_600_000 });
  const refused = await client.manifest('lib/b', '1').catch((error) => error);
  expect(refused).toMatchObject({ code: 'ERR_REGISTRY_RATE_LIMITED', status: 429 });
  expect(refused.retryAfterMs).toBeGreaterThan(3_500_000);
  expect(registry.seen).toHaveLength(1);
  expect(await client.readBlob('lib/a', digest, { maxBytes: blob.length })).toEqual(blob);
  expect(client.endpoints()[0]?.pausedMs).toBeGreaterThan(3_500_000);
});

test('a registry that limits everything is not asked for anything before its time', async () => {
  const registry = await serve(answer(429, { 'retry-after': '3600' }));
  const client = clientOf(registry.url);
  await expect(client.statBlob('lib/a', digest)).rejects.toMatchObject({ retryAfterMs: 3_600_000 });
  await expect(client.manifest('lib/a', '1')).rejects.toMatchObject({ code: 'ERR_REGISTRY_RATE_LIMITED' });
  await expect(client.tags('lib/a')).rejects.toMatchObject({ code: 'ERR_REGISTRY_RATE_LIMITED' });
  expect(registry.seen).toHaveLength(1);
});

/** One byte every 20 ms: never a pause long enough for a time-out between two pieces. */
const trickle: Handler = (_request, response) => {
  response.writeHead(200, { 'content-length': blob.length });
  let sent = 0;
  const timer = setInterval(() => response.write(blob.subarray(sent, ++sent)), 20);
  response.on('close', () => clearInterval(timer));
};

test('a body that trickles is ended', async () => {
  const { url } = await serve(trickle);
  const client = clientOf(url, { timeouts: { progressWindowMs: 300, progressMinBytes: 1000 } });
  const { body } = await client.blob('lib/a', digest);
  await expect(body.toArray()).rejects.toThrow(/only \d+ bytes came within 300 ms/);
});

test('a body that its reader takes slowly is not ended', async () => {
  const big = Buffer.alloc(20_000_000, 'x');
  const { url } = await serve(answer(200, {}, big));
  const client = clientOf(url, { timeouts: { progressWindowMs: 100, progressMinBytes: 1000 } });
  const { body } = await client.blob('lib/a', digestOf(big));
  let bytes = 0;
  let pieces = 0;
  for await (const piece of body as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (pieces++ < 3) await sleep(400);
  }
  expect(bytes).toBe(big.length);
});

test('headers that trickle are ended', async () => {
  const server = await serve((request) => {
    const { socket } = request;
    socket.write('HTTP/1.1 200 OK\r\n');
    const timer = setInterval(() => socket.write('x-a: b\r\n'), 20);
    socket.on('close', () => clearInterval(timer));
  });
  const client = clientOf(server.url, { timeouts: { headersMs: 300 } });
  await expect(client.blob('lib/a', digest)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_UNREACHABLE',
    message: expect.stringContaining('300 ms'),
  });
});

test('connections are bounded and kept, and nothing else waits behind blobs', async () => {
  const waiting: (() => void)[] = [];
  const registry = await serve((request, response) => {
    if (request.url?.includes('/blobs/')) waiting.push(() => good(request, response));
    else good(request, response);
  });
  const client = clientOf(registry.url, { maxConnections: 4 });
  const reading = Array.from({ length: 20 }, () => client.readBlob('lib/a', digest, { maxBytes: 1e6 }));
  for (let times = 0; times < 10; times++) await client.manifest('lib/a', '1');
  await vi.waitFor(() => expect(waiting).toHaveLength(4), { timeout: 20_000 });
  registry.handler = good;
  for (const go of waiting) go();
  await Promise.all(reading);
  // Thirty requests: four connections for blobs, and no more for all else.
  expect(registry.connections()).toBeLessThanOrEqual(8);
});

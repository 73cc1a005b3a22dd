import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { digestOf } from './digest.ts';
import { encodeJson } from './manifest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_MANIFEST } from './media-types.ts';
import { RegistryClient, type RegistryClientOptions } from './registry-client.ts';

/**
 * Servers that lie, break off or refuse: no real registry does that on demand. What a real one does is tested
 * in test/registry-client.test.ts.
 */
type Handler = (request: IncomingMessage, response: ServerResponse) => void;

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage['headers'];
}

async function serve(handler: Handler): Promise<{ url: URL; seen: Seen[] }> {
  const seen: Seen[] = [];
  const server = createServer((request, response) => {
    const { method = '', url = '', headers } = request;
    seen.push({ method, url, headers });
    handler(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`), seen };
}

function clientOf(baseUrl: URL, options: Omit<RegistryClientOptions, 'baseUrl'> = {}): RegistryClient {
  const client = new RegistryClient({ baseUrl, ...options });
  cleanups.push(() => client.close());
  return client;
}

/** Answers with each of the handlers in turn, with the last one ever after. */
function inTurn(...handlers: Handler[]): Handler {
  let next = 0;
  return (request, response) => handlers[Math.min(next++, handlers.length - 1)]?.(request, response);
}

const answer =
  (status: number, headers: Record<string, string | number>, body: Buffer | string = ''): Handler =>
  (_request, response) => {
    const length = body.length === 0 ? {} : { 'content-length': Buffer.byteLength(body) };
    response.writeHead(status, { ...length, ...headers }).end(body);
  };

const blob = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251));
const digest = digestOf(blob);
const manifest = encodeJson({
  schemaVersion: 2,
  config: { mediaType: OCI_CONFIG, digest, size: 1 },
  layers: [],
});
const manifestDigest = digestOf(manifest);
const manifestHeaders = { 'content-type': `${OCI_MANIFEST}; charset=utf-8` };
const ok = answer(200, {}, blob);

test('a manifest with other bytes than its digest is refused, and not asked for again', async () => {
  const { url, seen } = await serve(answer(200, manifestHeaders, `${manifest} `));
  const client = clientOf(url);
  await expect(client.manifest('lib/a', manifestDigest)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_DIGEST',
    host: url.host,
    repository: 'lib/a',
    reference: manifestDigest,
  });
  expect(seen).toHaveLength(1);
});

test('a manifest by tag is checked against the digest the registry names, in its algorithm', async () => {
  const named = (value: string) =>
    answer(200, { ...manifestHeaders, 'docker-content-digest': value }, manifest);
  const sha512 = digestOf(manifest, 'sha512');
  const { url } = await serve(inTurn(named(digestOf('other')), named(sha512), named('nonsense')));
  const client = clientOf(url);
  await expect(client.manifest('lib/a', '1')).rejects.toMatchObject({ code: 'ERR_REGISTRY_DIGEST' });
  const fetched = { mediaType: OCI_MANIFEST, bytes: manifest };
  expect(await client.manifest('lib/a', '1')).toEqual({ ...fetched, digest: sha512 });
  expect(await client.manifest('lib/a', '1')).toEqual({ ...fetched, digest: manifestDigest });
});

test('a manifest larger than 4 MiB is not read, with or without an announced length', async () => {
  const big = Buffer.alloc(4 * 1024 * 1024 + 1, ' ');
  const chunked: Handler = (_request, response) => {
    response.writeHead(200, manifestHeaders);
    response.write(big.subarray(0, 100));
    response.end(big.subarray(100));
  };
  const { url } = await serve(inTurn(answer(200, manifestHeaders, big), chunked));
  const client = clientOf(url);
  await expect(client.manifest('lib/a', '1')).rejects.toMatchObject({ code: 'ERR_REGISTRY_TOO_BIG' });
  await expect(client.manifest('lib/a', '1')).rejects.toMatchObject({ code: 'ERR_REGISTRY_TOO_BIG' });
});

test('resolve falls back to GET where HEAD is not allowed or does not name the digest', async () => {
  const get: Handler = answer(200, manifestHeaders, manifest);
  const head405 = answer(405, {});
  const { url, seen } = await serve(inTurn(head405, get, answer(200, manifestHeaders), get));
  const client = clientOf(url);
  const expected = { digest: manifestDigest, mediaType: OCI_MANIFEST, size: manifest.length };
  expect(await client.resolve('lib/a', '1')).toEqual(expected);
  expect(await client.resolve('lib/a', '1')).toEqual(expected);
  expect(seen.map(({ method }) => method)).toEqual(['HEAD', 'GET', 'HEAD', 'GET']);
});

test('resolve by digest refuses a registry that names another one', async () => {
  const headers = { ...manifestHeaders, 'docker-content-digest': digestOf('x'), 'content-length': 7 };
  const { url } = await serve(answer(200, headers));
  const resolved = clientOf(url).resolve('lib/a', manifestDigest);
  await expect(resolved).rejects.toMatchObject({ code: 'ERR_REGISTRY_DIGEST' });
});

test('a small blob is verified and bounded', async () => {
  const { url } = await serve(inTurn(ok, answer(200, {}, blob.subarray(1)), ok));
  const client = clientOf(url);
  expect(await client.readBlob('lib/a', digest, { maxBytes: blob.length })).toEqual(blob);
  await expect(client.readBlob('lib/a', digest, { maxBytes: blob.length })).rejects.toMatchObject({
    code: 'ERR_REGISTRY_DIGEST',
  });
  await expect(client.readBlob('lib/a', digest, { maxBytes: blob.length - 1 })).rejects.toMatchObject({
    code: 'ERR_REGISTRY_TOO_BIG',
  });
});

const breakOff: Handler = (_request, response) => {
  response.writeHead(200, { 'content-length': blob.length });
  response.write(blob.subarray(0, 5000), () => response.destroy());
};

test('a body that breaks off is fetched again', async () => {
  const { url, seen } = await serve(inTurn(breakOff, breakOff, ok));
  expect(await clientOf(url).readBlob('lib/a', digest, { maxBytes: blob.length })).toEqual(blob);
  expect(seen).toHaveLength(3);
});

test('after bounded attempts at a body that breaks off there is an error', async () => {
  const { url, seen } = await serve(breakOff);
  const client = clientOf(url, { retry: { retries: 1 } });
  await expect(client.readBlob('lib/a', digest, { maxBytes: blob.length })).rejects.toMatchObject({
    code: 'ERR_REGISTRY_BODY',
  });
  expect(seen).toHaveLength(2);
});

test('the body of a download fails when the connection breaks', async () => {
  const { url } = await serve(breakOff);
  const { body } = await clientOf(url).blob('lib/a', digest);
  await expect(body.toArray()).rejects.toThrow();
});

const ranged: Handler = (request, response) => {
  const [, first = 0, last = blob.length - 1] = (
    /^bytes=([0-9]+)-([0-9]+)?$/.exec(request.headers.range ?? '') ?? []
  ).map((text) => (text === undefined ? undefined : Number(text)));
  const end = Math.min(Number(last), blob.length - 1);
  const headers = { 'content-range': `bytes ${first}-${end}/${blob.length}` };
  response.writeHead(206, headers).end(blob.subarray(Number(first), end + 1));
};

test('parts of a blob come with their place and the size of the whole', async () => {
  const { url, seen } = await serve(ranged);
  const client = clientOf(url);
  const part = await client.blob('lib/a', digest, { offset: 99_000, length: 5_000 });
  expect(part).toMatchObject({ status: 206, sizeBytes: 100_000, offsetBytes: 99_000, lengthBytes: 1_000 });
  expect(Buffer.concat(await part.body.toArray())).toEqual(blob.subarray(99_000));
  const rest = await client.blob('lib/a', digest, { offset: 10 });
  expect(Buffer.concat(await rest.body.toArray())).toEqual(blob.subarray(10));
  expect(await client.readBlobRange('lib/a', digest, 5, 1000)).toEqual(blob.subarray(5, 1005));
  expect(seen.map(({ headers }) => headers.range)).toEqual([
    'bytes=99000-103999',
    'bytes=10-',
    'bytes=5-1004',
  ]);
});

test('who reads a part of a blob is told of what has come while the rest is to come', async () => {
  const rest = Promise.withResolvers<void>();
  const { url } = await serve(async (_request, response) => {
    const headers = { 'content-range': `bytes 0-999/${blob.length}`, 'content-length': '1000' };
    response.writeHead(206, headers).write(blob.subarray(0, 400));
    await rest.promise;
    response.end(blob.subarray(400, 1000));
  });
  const half = Promise.withResolvers<Buffer>();
  const reading = clientOf(url).readBlobRange('lib/a', digest, 0, 1000, {
    onFilled: (bytes, filledBytes) => {
      if (filledBytes >= 400) half.resolve(bytes.subarray(0, 400));
    },
  });
  expect(await half.promise).toEqual(blob.subarray(0, 400));
  rest.resolve();
  expect(await reading).toEqual(blob.subarray(0, 1000));
});

test('a registry that ignores ranges is noticed', async () => {
  const { url } = await serve(ok);
  const client = clientOf(url);
  const download = await client.blob('lib/a', digest, { offset: 10 });
  expect(download).toMatchObject({ status: 200, offsetBytes: 0, sizeBytes: 100_000, lengthBytes: 100_000 });
  download.body.destroy();
  await expect(client.readBlobRange('lib/a', digest, 10, 5)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_PROTOCOL',
    message: expect.stringMatching(/ranges/),
  });
  expect(await client.readBlobRange('lib/a', digest, 0, blob.length)).toEqual(blob);
});

test.each([
  ['another start', 'bytes 11-19/100000', 9],
  ['another end', 'bytes 10-18/100000', 9],
  ['an end past the blob', 'bytes 10-19/15', 10],
  ['another length than it says', 'bytes 10-19/100000', 9],
  ['no range', '', 10],
  ['several ranges', 'multipart/byteranges', 10],
])('a partial answer with %s is refused', async (_what, range, length) => {
  const headers = range === '' ? {} : { 'content-range': range };
  const { url } = await serve(answer(206, headers, blob.subarray(0, length)));
  const part = { offset: 10, length: 10 };
  const client = clientOf(url);
  await expect(client.blob('lib/a', digest, part)).rejects.toMatchObject({ code: 'ERR_REGISTRY_PROTOCOL' });
  await expect(client.readBlobRange('lib/a', digest, 10, 10)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_PROTOCOL',
  });
});

test('a part with fewer bytes than its headers promise is refused', async () => {
  const short: Handler = (_request, response) => {
    response.writeHead(206, { 'content-range': 'bytes 10-19/100000' });
    response.write(blob.subarray(10, 15));
    response.end();
  };
  const { url, seen } = await serve(short);
  const client = clientOf(url, { retry: { retries: 1 } });
  await expect(client.readBlobRange('lib/a', digest, 10, 10)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_BODY',
  });
  expect(seen).toHaveLength(2);
});

test('a range of bytes past the end is an error, not fewer bytes', async () => {
  const { url } = await serve(ranged);
  await expect(clientOf(url).readBlobRange('lib/a', digest, 99_995, 10)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_PROTOCOL',
  });
});

test('the size of a blob that comes without its length is asked for', async () => {
  const chunked: Handler = (_request, response) => {
    response.writeHead(200);
    response.write(blob.subarray(0, 10));
    response.end(blob.subarray(10));
  };
  const { url } = await serve(inTurn(chunked, answer(200, { 'content-length': blob.length })));
  const { sizeBytes, lengthBytes, body } = await clientOf(url).blob('lib/a', digest);
  expect({ sizeBytes, lengthBytes }).toEqual({ sizeBytes: blob.length, lengthBytes: null });
  expect(Buffer.concat(await body.toArray())).toEqual(blob);
});

test.each([502, 503, 504])('%i is tried again', async (status) => {
  const { url, seen } = await serve(inTurn(answer(status, {}), ok));
  expect(await clientOf(url).readBlob('lib/a', digest, { maxBytes: blob.length })).toEqual(blob);
  expect(seen).toHaveLength(2);
});

test('500 is not tried again, and the error carries what the registry said', async () => {
  const body = '{"errors":[{"code":"UNKNOWN","message":"disk on fire"}]}';
  const { url, seen } = await serve(answer(500, { 'content-type': 'application/json' }, body));
  await expect(clientOf(url).blob('lib/a', digest)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_STATUS',
    status: 500,
    message: expect.stringContaining('disk on fire'),
    entries: [{ code: 'UNKNOWN', message: 'disk on fire' }],
  });
  expect(seen).toHaveLength(1);
});

test('404 is not found', async () => {
  const { url } = await serve(answer(404, {}, '<html>'));
  await expect(clientOf(url).statBlob('lib/a', digest)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_NOT_FOUND',
    status: 404,
  });
});

test('a short Retry-After is waited for', async () => {
  const { url, seen } = await serve(inTurn(answer(429, { 'retry-after': '1' }), ok));
  const began = performance.now();
  await clientOf(url).readBlob('lib/a', digest, { maxBytes: blob.length });
  expect(performance.now() - began).toBeGreaterThanOrEqual(990);
  expect(seen).toHaveLength(2);
});

test('a long Retry-After, or none, is handed on at once', async () => {
  const { url, seen } = await serve(inTurn(answer(429, {}), answer(429, { 'retry-after': '3600' })));
  const client = clientOf(url);
  const rateLimited = { code: 'ERR_REGISTRY_RATE_LIMITED', status: 429 };
  await expect(client.blob('lib/a', digest)).rejects.toMatchObject({ ...rateLimited, retryAfterMs: null });
  await expect(client.blob('lib/a', digest)).rejects.toMatchObject({
    ...rateLimited,
    retryAfterMs: 3_600_000,
  });
  expect(seen).toHaveLength(2);
});

test.each(['999999999', 'Fri, 31 Dec 9999 23:59:59 GMT'])(
  'a Retry-After of %s is taken for a day: nobody stays away for good',
  async (retryAfter) => {
    const { url } = await serve(answer(503, { 'retry-after': retryAfter }));
    await expect(clientOf(url).blob('lib/a', digest)).rejects.toMatchObject({ retryAfterMs: 86_400_000 });
  },
);

test('nothing listens: unreachable, naming the host', async () => {
  const { url } = await serve(ok);
  await cleanups.pop()?.();
  await expect(clientOf(url, { retry: { retries: 1 } }).blob('lib/a', digest)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_UNREACHABLE',
    status: null,
    message: expect.stringContaining(url.host),
  });
});

test('a server that never answers runs into the time-out', async () => {
  const { url, seen } = await serve(() => {});
  const client = clientOf(url, { timeouts: { headersMs: 100 } });
  await expect(client.blob('lib/a', digest)).rejects.toMatchObject({ code: 'ERR_REGISTRY_UNREACHABLE' });
  expect(seen).toHaveLength(1);
});

test('an abort ends a request, a body and a wait between attempts with its own reason', async () => {
  const stalled: Handler = (_request, response) => {
    response.writeHead(200, { 'content-length': blob.length });
    response.write(blob.subarray(0, 10));
  };
  const { url, seen } = await serve(inTurn(() => {}, stalled, answer(503, { 'retry-after': '4' })));
  const client = clientOf(url);
  for (let attempt = 1; attempt <= 3; attempt++) {
    const reason = new Error('the reader has gone');
    const signal = abortAfter(100, reason);
    const began = performance.now();
    await expect(client.readBlob('lib/a', digest, { maxBytes: 1e6, signal })).rejects.toBe(reason);
    expect(performance.now() - began).toBeLessThan(1500);
    expect(seen).toHaveLength(attempt);
  }
});

function abortAfter(delayMs: number, reason: Error): AbortSignal {
  const controller = new AbortController();
  setTimeout(() => controller.abort(reason), delayMs);
  return controller.signal;
}

test('a redirect to another port is followed without credentials, and its challenge gets none', async () => {
  const challenge = { 'www-authenticate': 'Basic realm="storage"' };
  const bearer: Handler = (request, response) =>
    answer(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token"` })(
      request,
      response,
    );
  const storage = await serve(inTurn(ok, bearer, ok));
  const registry = await serve((request, response) => {
    if (request.headers.authorization === undefined) answer(401, challenge)(request, response);
    else answer(307, { location: `${storage.url}signed?x=1` })(request, response);
  });
  const client = clientOf(registry.url, { credentials: { username: 'alice', password: 'secret' } });
  expect(await client.readBlob('lib/a', digest, { maxBytes: blob.length })).toEqual(blob);
  expect(registry.seen.at(-1)?.headers.authorization).toBe('Basic YWxpY2U6c2VjcmV0');
  await expect(client.blob('lib/a', digest)).rejects.toMatchObject({ code: 'ERR_REGISTRY_UNAUTHORIZED' });
  expect(storage.seen.map(({ url }) => url)).toEqual(['/signed?x=1', '/signed?x=1']);
  expect(storage.seen.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
});

test('a redirect on the same host keeps the credentials, one through another host loses them', async () => {
  const elsewhere = await serve((_request, response) => {
    response.writeHead(307, { location: `${registry.url}back` }).end();
  });
  const registry = await serve((request, response) => {
    if (request.headers.authorization === undefined && request.url?.startsWith('/v2/')) {
      answer(401, { 'www-authenticate': 'Basic realm="x"' })(request, response);
    } else if (request.url?.startsWith('/v2/lib/a/')) answer(302, { location: '/same' })(request, response);
    else if (request.url?.startsWith('/v2/lib/b/'))
      answer(302, { location: `${elsewhere.url}` })(request, response);
    else ok(request, response);
  });
  const client = clientOf(registry.url, { credentials: { username: 'alice', password: 'secret' } });
  await client.readBlob('lib/a', digest, { maxBytes: blob.length });
  expect(registry.seen.at(-1)).toMatchObject({ url: '/same', headers: { authorization: /^Basic / } });
  await client.readBlob('lib/b', digest, { maxBytes: blob.length });
  expect(registry.seen.at(-1)?.url).toBe('/back');
  expect(registry.seen.at(-1)?.headers.authorization).toBeUndefined();
});

test('a circle of redirects ends after five', async () => {
  const { url, seen } = await serve(answer(307, { location: '/v2/again' }));
  await expect(clientOf(url).blob('lib/a', digest)).rejects.toMatchObject({ code: 'ERR_REGISTRY_PROTOCOL' });
  expect(seen).toHaveLength(6);
});

test.each(['http://169.254.169.254/latest/meta-data', 'file:///etc/passwd', 'http://[fd00:ec2::254]/'])(
  'even a registry on loopback cannot send us to %s',
  async (location) => {
    const { url } = await serve(answer(307, { location }));
    await expect(clientOf(url).blob('lib/a', digest)).rejects.toMatchObject({
      code: 'ERR_REGISTRY_FORBIDDEN_ADDRESS',
    });
  },
);

test('a registry whose name resolves to loopback may send us to loopback', async () => {
  const storage = await serve(ok);
  const registry = await serve(answer(307, { location: storage.url.href }));
  const client = clientOf(new URL(registry.url.href.replace('127.0.0.1', 'localhost')));
  expect(await client.readBlob('lib/a', digest, { maxBytes: blob.length })).toEqual(blob);
});

test('what is no repository, tag or digest never becomes a path', async () => {
  const { url, seen } = await serve(ok);
  const client = clientOf(url);
  const invalid = { code: 'ERR_REFERENCE_INVALID' };
  await expect(client.manifest('../_catalog', '1')).rejects.toMatchObject(invalid);
  await expect(client.manifest('lib/a', '../../x')).rejects.toMatchObject(invalid);
  await expect(client.blob('lib/a?x', digest)).rejects.toMatchObject(invalid);
  expect(seen).toHaveLength(0);
});

test('a path in front of the API is kept', async () => {
  const { url, seen } = await serve(ok);
  await clientOf(new URL('mirror/quay', url.href)).readBlob('lib/a', digest, { maxBytes: blob.length });
  expect(seen[0]?.url).toBe(`/mirror/quay/v2/lib/a/blobs/${digest}`);
});

const entry = (name: string, artifactType: string) => ({
  mediaType: OCI_MANIFEST,
  digest: digestOf(name),
  size: 1,
  artifactType,
});
const indexOf = (...manifests: object[]) => encodeJson({ schemaVersion: 2, mediaType: OCI_INDEX, manifests });

test('referrers are read page by page and filtered here if the registry does not', async () => {
  const pages: Handler = (request, response) => {
    const isFirst = !request.url?.includes('page=2');
    const link = { link: `</v2/lib/a/referrers/${digest}?page=2>; rel="next"` };
    const body = isFirst ? indexOf(entry('a', 'x/a'), entry('b', 'x/b')) : indexOf(entry('c', 'x/a'));
    answer(200, { 'content-type': OCI_INDEX, ...(isFirst ? link : {}) }, body)(request, response);
  };
  const { url, seen } = await serve(pages);
  const client = clientOf(url);
  const found = await client.referrers('lib/a', digest, { artifactType: 'x/a' });
  expect(found.map((one) => one.digest)).toEqual([digestOf('a'), digestOf('c')]);
  expect(seen[0]?.url).toBe(`/v2/lib/a/referrers/${digest}?artifactType=x%2Fa`);
  expect(await client.referrers('lib/a', digest)).toHaveLength(3);
});

test('a next page elsewhere is not followed', async () => {
  const other = await serve(answer(200, {}, indexOf(entry('b', 'x/b'))));
  const link = { link: `<${other.url}v2/>; rel="next"` };
  const { url } = await serve(
    answer(200, { 'content-type': OCI_INDEX, ...link }, indexOf(entry('a', 'x/a'))),
  );
  expect(await clientOf(url).referrers('lib/a', digest)).toHaveLength(1);
  expect(other.seen).toHaveLength(0);
});

test('tags are read page by page, without what is no tag', async () => {
  const pages: Handler = (request, response) => {
    const isFirst = !request.url?.includes('last=');
    const link = { link: '</v2/lib/a/tags/list?n=2&last=b>; rel="next"' };
    const body = JSON.stringify({ name: 'lib/a', tags: isFirst ? ['b', '../x'] : ['a'] });
    answer(200, isFirst ? link : {}, body)(request, response);
  };
  const { url } = await serve(inTurn(pages, pages, answer(200, {}, '{"name":"lib/a","tags":null}'), ok));
  const client = clientOf(url);
  expect(await client.tags('lib/a')).toEqual(['b', 'a']);
  expect(await client.tags('lib/a')).toEqual([]);
  await expect(client.tags('lib/a')).rejects.toMatchObject({ code: 'ERR_REGISTRY_PROTOCOL' });
});

test('a list of pages without end is given up', async () => {
  const endless = answer(200, { link: '</v2/lib/a/tags/list?n=1&last=a>; rel="next"' }, '{"tags":["a"]}');
  const { url, seen } = await serve(endless);
  await expect(clientOf(url).tags('lib/a')).rejects.toMatchObject({ code: 'ERR_REGISTRY_PROTOCOL' });
  expect(seen).toHaveLength(1000);
});

test('a list that would fill the memory is given up', async () => {
  const page = `{"tags":["a"]}${' '.repeat(4_000_000)}`;
  const { url, seen } = await serve(answer(200, { link: '</v2/lib/a/tags/list?last=a>; rel="next"' }, page));
  await expect(clientOf(url).tags('lib/a')).rejects.toMatchObject({ code: 'ERR_REGISTRY_TOO_BIG' });
  expect(seen).toHaveLength(17);
});

test('a range that gets no answer is asked for again by who has set a time for it, else not', async () => {
  const part = answer(206, { 'content-range': 'bytes 0-9/100000' }, blob.subarray(0, 10));
  const silence: Handler = () => {};
  const { url, seen } = await serve(inTurn(silence, part));
  const client = clientOf(url, { timeouts: { headersMs: 100 } });
  const retry = { retries: 5, maxMs: 10_000 };
  expect(await client.readBlobRange('lib/a', digest, 0, 10, { retry })).toEqual(blob.subarray(0, 10));
  expect(seen).toHaveLength(2);

  const silent = await serve(silence);
  const impatient = clientOf(silent.url, { timeouts: { headersMs: 100 } });
  await expect(impatient.readBlobRange('lib/a', digest, 0, 10)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_UNREACHABLE',
  });
  expect(silent.seen).toHaveLength(1);
});

import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../test/support/fake-registry.ts';
import { proxy, upstream, useProxiedRegistry } from '../../test/support/proxied-registry.ts';
import { bytesOf, errorOf, TestProxy } from '../../test/support/test-proxy.ts';
import { digestOf } from '../oci/digest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import { parseProxyConfig } from './config.ts';
import { startProxy } from './server.ts';

const BIG = randomBytes(3 * 1024 * 1024 + 17);
const SMALL = Buffer.from('small');

useProxiedRegistry();

test('the base answers, and what is not pulling is refused', async () => {
  const base = await proxy.fetch('/v2/');
  expect(base.status).toBe(200);
  expect(base.headers.get('docker-distribution-api-version')).toBe('registry/2.0');
  expect((await proxy.fetch('/healthz')).status).toBe(200);
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
    const refused = await proxy.fetch('/v2/lib/a/blobs/uploads/', { method, body: 'x' });
    expect(refused.headers.get('allow')).toBe('GET, HEAD');
    expect(await errorOf(refused)).toMatchObject({ status: 405, code: 'UNSUPPORTED' });
  }
  expect(await errorOf(await proxy.fetch('/elsewhere'))).toMatchObject({ status: 404 });
  expect(upstream.requests).toEqual([]);
});

test('a manifest comes byte for byte, by tag and digest, by HEAD and GET', async () => {
  const image = upstream.putImage([SMALL], '1');
  const byTag = await proxy.fetch('/v2/lib/a/manifests/1');
  expect(await bytesOf(byTag)).toEqual(image.bytes);
  expect(Object.fromEntries(byTag.headers)).toMatchObject({
    'content-type': OCI_MANIFEST,
    'content-length': String(image.bytes.length),
    'docker-content-digest': image.digest,
    etag: `"${image.digest}"`,
    'docker-distribution-api-version': 'registry/2.0',
  });
  const head = await proxy.fetch('/v2/lib/a/manifests/1', { method: 'HEAD' });
  expect(head.headers.get('content-length')).toBe(String(image.bytes.length));
  expect(head.headers.get('docker-content-digest')).toBe(image.digest);
  const byDigest = await proxy.fetch(`/v2/lib/a/manifests/${image.digest}`);
  expect(await bytesOf(byDigest)).toEqual(image.bytes);
  expect(upstream.count('GET', image.digest)).toBe(1);
});

test('the repository is chosen by prefix and by ns, and no other registry is contacted', async () => {
  upstream.putImage([SMALL], '1');
  expect((await proxy.fetch('/v2/reg.example/lib/a/manifests/1')).status).toBe(200);
  const byNamespace = await proxy.fetch('/v2/lib/b/manifests/1?ns=reg.example');
  expect(byNamespace.status).toBe(200);
  expect(byNamespace.headers.get('oci-namespace')).toBe('reg.example');
  expect(upstream.requests.map((seen) => seen.path)).toEqual(
    expect.arrayContaining(['/v2/lib/a/manifests/1', '/v2/lib/b/manifests/1']),
  );
  const other = await FakeRegistry.start();
  other.putImage([SMALL], '1');
  const namespace = encodeURIComponent(other.url.slice('http://'.length));
  const refused = await proxy.fetch(`/v2/lib/a/manifests/1?ns=${namespace}`);
  expect(await errorOf(refused)).toMatchObject({ status: 404, code: 'NAME_UNKNOWN' });
  expect(other.requests).toEqual([]);
  await other.stop();
});

test('a tag is asked for again after its time, and follows upstream', async () => {
  const first = upstream.putImage([SMALL], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  const second = upstream.putImage([SMALL, BIG], '1');
  const moved = await proxy.fetch('/v2/lib/a/manifests/1');
  expect(moved.headers.get('docker-content-digest')).toBe(second.digest);
  expect(moved.headers.get('warning')).toBeNull();
  upstream.removeManifest('1');
  expect(await errorOf(await proxy.fetch('/v2/lib/a/manifests/1'))).toMatchObject({
    status: 404,
    code: 'MANIFEST_UNKNOWN',
  });
  expect((await proxy.fetch(`/v2/lib/a/manifests/${first.digest}`)).status).toBe(200);
});

test('within its time a tag is not asked for again', async () => {
  const patient = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    tagTtlMs: 60_000,
  });
  upstream.putImage([SMALL], '1');
  await patient.fetch('/v2/lib/a/manifests/1');
  await patient.fetch('/v2/lib/a/manifests/1');
  expect(upstream.count('HEAD', '/manifests/1')).toBe(1);
  await patient.remove();
});

test.each([500, 503, 429])(
  'when upstream answers %i, a tag is served from the cache with a warning',
  async (status) => {
    const image = upstream.putImage([SMALL], '1');
    await proxy.fetch('/v2/lib/a/manifests/1');
    upstream.intercept = (_request, response) => {
      response.writeHead(status).end();
      return true;
    };
    const stale = await proxy.fetch('/v2/lib/a/manifests/1');
    expect(stale.headers.get('docker-content-digest')).toBe(image.digest);
    expect(stale.headers.get('warning')).toMatch(/^299 - "reg\.example cannot be asked/);
    // 429 would keep containerd from going on to its next mirror.
    expect((await proxy.fetch('/v2/lib/a/manifests/2')).status).not.toBe(429);
  },
);

test('when upstream hangs, a tag is served from the cache before clients give up', async () => {
  const image = upstream.putImage([SMALL], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  upstream.intercept = () => true;
  const startedMs = performance.now();
  const stale = await proxy.fetch('/v2/lib/a/manifests/1');
  expect(performance.now() - startedMs).toBeLessThan(10_000);
  expect(stale.headers.get('docker-content-digest')).toBe(image.digest);
  expect(stale.headers.get('warning')).toContain('cannot be asked');
});

test('when upstream hung a moment ago, nobody waits for it again to get what is cached', async () => {
  const images = ['1', '2'].map((tag) => upstream.putImage([SMALL, Buffer.from(tag)], tag));
  for (const tag of ['1', '2']) await proxy.fetch(`/v2/lib/a/manifests/${tag}`);
  upstream.intercept = () => true;
  await proxy.fetch('/v2/lib/a/manifests/1');
  const before = upstream.requests.length;
  const startedMs = performance.now();
  const [stale, referrers] = await Promise.all([
    proxy.fetch('/v2/lib/a/manifests/2'),
    proxy.fetch(`/v2/lib/a/referrers/${images[0]!.digest}`),
  ]);
  expect(performance.now() - startedMs).toBeLessThan(1_000);
  expect(stale.headers.get('docker-content-digest')).toBe(images[1]!.digest);
  expect(referrers.headers.get('warning')).toContain('cannot be asked');
  expect(upstream.requests).toHaveLength(before);
});

test('a kept manifest that rots on the disk is fetched again', async () => {
  const image = upstream.putImage([SMALL], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  const hex = image.digest.slice('sha256:'.length);
  const file = join(proxy.directory, 'blobs', 'sha256', hex.slice(0, 2), hex);
  await vi.waitFor(() => expect(existsSync(file)).toBe(true), 10_000);
  writeFileSync(file, '{}');
  expect(await bytesOf(await proxy.fetch('/v2/lib/a/manifests/1'))).toEqual(image.bytes);
});

test('what was pulled is served after a restart without upstream', async () => {
  const image = upstream.putImage([SMALL, BIG], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  for (const digest of image.layers) await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`));
  await proxy.stop();
  await upstream.stop();
  await proxy.start();
  const byTag = await proxy.fetch('/v2/lib/a/manifests/1');
  expect(await bytesOf(byTag)).toEqual(image.bytes);
  expect(byTag.headers.get('warning')).toContain('cannot be asked');
  expect(await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digestOf(BIG)}`))).toEqual(BIG);
  expect(await errorOf(await proxy.fetch('/v2/lib/a/manifests/2'))).toMatchObject({ status: 503 });
});

test('a manifest that is not what its digest says is refused and not kept', async () => {
  const { digest, bytes } = upstream.putImage([SMALL]);
  const lie = (request: IncomingMessage) => request.url?.endsWith(digest) === true;
  upstream.intercept = (request, response) => {
    if (!lie(request)) return false;
    response.writeHead(200, { 'content-type': OCI_MANIFEST }).end(`${bytes} `);
    return true;
  };
  for (const attempt of [1, 2]) {
    const refused = await proxy.fetch(`/v2/lib/a/manifests/${digest}`);
    expect(await errorOf(refused), `attempt ${attempt}`).toMatchObject({
      status: 502,
      message: expect.stringContaining(digest),
    });
  }
  upstream.intercept = () => false;
  expect(await bytesOf(await proxy.fetch(`/v2/lib/a/manifests/${digest}`))).toEqual(bytes);
});

test('a refusal by upstream is not covered up by the cache', async () => {
  upstream.putImage([SMALL], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  upstream.intercept = (_request, response) => {
    response.writeHead(403).end();
    return true;
  };
  expect(await errorOf(await proxy.fetch('/v2/lib/a/manifests/1'))).toMatchObject({
    status: 403,
    code: 'DENIED',
  });
});

test('tags are those of upstream, page by page, and those of the cache without it', async () => {
  for (const tag of ['b', 'a', 'c']) upstream.putImage([SMALL], tag);
  await proxy.fetch('/v2/lib/a/manifests/b');
  const all = await proxy.fetch('/v2/lib/a/tags/list');
  expect(await all.json()).toEqual({ name: 'lib/a', tags: ['a', 'b', 'c'] });
  expect(all.headers.get('link')).toBeNull();
  const first = await proxy.fetch('/v2/lib/a/tags/list?n=2');
  expect(await first.json()).toMatchObject({ tags: ['a', 'b'] });
  const next = /^<(.*)>; rel="next"$/.exec(first.headers.get('link') ?? '')?.[1];
  const second = await proxy.fetch(next!);
  expect(await second.json()).toMatchObject({ tags: ['c'] });
  expect(second.headers.get('link')).toBeNull();
  expect(await (await proxy.fetch('/v2/lib/a/tags/list?n=0')).json()).toMatchObject({ tags: [] });
  await upstream.stop();
  const cached = await proxy.fetch('/v2/lib/a/tags/list');
  expect(await cached.json()).toMatchObject({ tags: ['b'] });
  expect(cached.headers.get('warning')).toContain('cannot be asked');
});

test('referrers are those of upstream, filtered, and an empty list where there are none', async () => {
  const { digest } = upstream.putImage([SMALL], '1');
  const describe = (text: string, artifactType: string) => ({
    mediaType: OCI_MANIFEST,
    digest: digestOf(text),
    size: 1,
    artifactType,
  });
  upstream.putReferrers(digest, [describe('sbom', 'x/sbom'), describe('signature', 'x/signature')]);
  const all = await proxy.fetch(`/v2/lib/a/referrers/${digest}`);
  expect(all.headers.get('content-type')).toBe(OCI_INDEX);
  expect(all.headers.get('oci-filters-applied')).toBeNull();
  expect(await all.json()).toMatchObject({ schemaVersion: 2, manifests: [{}, {}] });
  const some = await proxy.fetch(`/v2/lib/a/referrers/${digest}?artifactType=x%2Fsbom`);
  expect(some.headers.get('oci-filters-applied')).toBe('artifactType');
  expect(await some.json()).toMatchObject({ manifests: [{ digest: digestOf('sbom') }] });
  const none = await proxy.fetch(`/v2/lib/a/referrers/${digestOf('nothing')}`);
  expect(none.status).toBe(200);
  expect(await none.json()).toMatchObject({ manifests: [] });
  await upstream.stop();
  const without = await proxy.fetch(`/v2/lib/a/referrers/${digest}`);
  expect(without.status).toBe(200);
  expect(without.headers.get('warning')).toContain('cannot be asked');
});

test('each request is one line in the log', async () => {
  upstream.putBlob(SMALL);
  await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digestOf(SMALL)}?ns=reg.example`));
  await vi.waitFor(
    () => expect(proxy.logged.filter((line) => line['method'] !== undefined)).toHaveLength(1),
    30_000,
  );
  expect(proxy.logged.find((line) => line['method'] !== undefined)).toMatchObject({
    level: 30,
    request: expect.any(String),
    method: 'GET',
    path: `/v2/lib/a/blobs/${digestOf(SMALL)}?ns=reg.example`,
    kind: 'blob',
    upstream: 'reg.example',
    repository: 'lib/a',
    source: 'fill',
    status: 200,
    bytes: expect.any(Number),
    ms: expect.any(Number),
  });
});

test('a request keeps the name its caller gave it, if that can stand in a log', async () => {
  const named = (id: string) => proxy.fetch('/v2/', { headers: { 'x-request-id': id } });
  expect((await named('trace-1:a/b')).headers.get('x-request-id')).toBe('trace-1:a/b');
  for (const id of ['a b', 'x'.repeat(129), '"']) {
    expect((await named(id)).headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  }
  await vi.waitFor(() =>
    expect(proxy.logged.filter((line) => line['request'] === 'trace-1:a/b')).toHaveLength(1),
  );
});

test('a second proxy on the same directory is refused', async () => {
  const config = parseProxyConfig({ listen: '127.0.0.1:0', admin: null, dataDirectory: proxy.directory });
  await expect(startProxy(config, { log: pino({ level: 'silent' }), version: 'test' })).rejects.toMatchObject(
    {
      code: 'ERR_STORE_LOCKED',
    },
  );
});

import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { brokenBody, bytesOf, errorOf } from '../../../test/support/test-proxy.ts';
import { digestOf } from '../../oci/digest.ts';

const BIG = randomBytes(4 * 1024 * 1024);

// No disk has so much free.
useProxiedRegistry({ conversion: { enabled: false }, storage: { kind: 'directory', minFreeBytes: 2 ** 52 } });

test('with a full disk an image is passed through, whole and verified', async () => {
  const image = upstream.putImage([BIG, Buffer.from('small')], '1');
  const manifest = await proxy.fetch('/v2/lib/a/manifests/1');
  expect((await bytesOf(manifest)).equals(image.bytes)).toBe(true);
  for (let round = 0; round < 3; round++) {
    for (const digest of [image.config, ...image.layers]) {
      const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
      expect(response.headers.get('docker-content-digest')).toBe(digest);
      expect(digestOf(await bytesOf(response))).toBe(digest);
    }
  }
  const whole = await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`, { headers: { range: 'bytes=0-' } });
  expect(whole.status).toBe(206);
  expect((await bytesOf(whole)).equals(BIG)).toBe(true);
  expect(proxy.unfinished()).toEqual([]);
});

test('a part is passed through as upstream sends it, and the answer says that it is not verified', async () => {
  const digest = upstream.putBlob(BIG);
  const part = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, {
    headers: { range: 'bytes=1000000-1999999' },
  });
  expect(part.status).toBe(206);
  expect(part.headers.get('content-range')).toBe(`bytes 1000000-1999999/${BIG.length}`);
  expect(part.headers.get('docker-content-digest')).toBeNull();
  expect(part.headers.get('warning')).toContain('unverified');
  expect((await bytesOf(part)).equals(BIG.subarray(1_000_000, 2_000_000))).toBe(true);
});

test('other bytes than the digest names never come to a clean end', async () => {
  const digest = upstream.putBlob(BIG, digestOf('something else'));
  const body = await brokenBody(await proxy.fetch(`/v2/lib/a/blobs/${digest}`));
  expect(body.length).toBeLessThanOrEqual(BIG.length - 64 * 1024);
  const short = upstream.putBlob(Buffer.from('short'), digestOf('something longer'));
  expect(await errorOf(await proxy.fetch(`/v2/lib/a/blobs/${short}`))).toMatchObject({ status: 502 });
});

test('a connection that breaks is taken up where it was', async () => {
  const digest = upstream.putBlob(BIG);
  let breaks = 2;
  upstream.intercept = (request, response) => {
    if (request.method !== 'GET' || breaks-- <= 0) return false;
    const start = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    response.writeHead(start === 0 ? 200 : 206, {
      'content-length': BIG.length - start,
      ...(start === 0 ? {} : { 'content-range': `bytes ${start}-${BIG.length - 1}/${BIG.length}` }),
    });
    response.write(BIG.subarray(start, start + 1_500_000), () => response.destroy());
    return true;
  };
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
});

test('a blob that upstream does not have is unknown, and one that it refuses is refused', async () => {
  const missing = digestOf('missing');
  expect((await proxy.fetch(`/v2/lib/a/blobs/${missing}`)).status).toBe(404);
  const digest = upstream.putBlob(BIG);
  upstream.intercept = (_request, response) => {
    response.writeHead(403).end();
    return true;
  };
  expect((await proxy.fetch(`/v2/lib/a/blobs/${digest}`)).status).toBe(403);
});

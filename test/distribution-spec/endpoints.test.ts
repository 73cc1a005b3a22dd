import { once } from 'node:events';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../../src/oci/digest.ts';
import { requireCapability } from '../support/capabilities.ts';
import { FakeRegistry } from '../support/fake-registry.ts';
import { freshBlob, freshImage } from '../support/spec-images.ts';
import { lastingHeaders, SpecRegistry } from '../support/spec-registry.ts';
import { errorOf, TestProxy } from '../support/test-proxy.ts';

const canRun = requireCapability('registry');
const DIGEST = digestOf('anything');

let spec: SpecRegistry;
beforeAll(async () => {
  if (canRun) spec = await SpecRegistry.start();
});
afterAll(async () => {
  if (canRun) await spec.remove();
});

/** Sends a request line as it stands here, which `fetch` would put right. */
async function raw(target: string, method = 'GET'): Promise<{ status: number; body: string }> {
  const socket = connect(Number(new URL(spec.proxy.url).port), '127.0.0.1');
  await once(socket, 'connect');
  socket.write(`${method} ${target} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n`);
  const answer = await text(socket);
  const [head = '', body = ''] = answer.split('\r\n\r\n', 2);
  return { status: Number(head.split(' ')[1]), body };
}

describe.skipIf(!canRun)('Endpoints', () => {
  test('end-1, Determining Support: /v2/ and /v2 are 200, by GET and HEAD', async () => {
    for (const path of ['/v2/', '/v2', '/v2/?ns=reg.example']) {
      for (const method of ['GET', 'HEAD']) {
        const response = await spec.proxy.fetch(path, { method, redirect: 'manual' });
        expect(response.status).toBe(200);
        expect(lastingHeaders(response)).toMatchObject({
          'content-type': 'application/json',
          'content-length': '2',
          'docker-distribution-api-version': 'registry/2.0',
        });
        if (method === 'GET') expect(await response.json()).toEqual({});
      }
    }
  });

  test('end-2, end-3, end-8a, end-8b, end-12a, end-12b: all of the pull side is there', async () => {
    const image = await spec.push('all/ends', '1', freshImage());
    const blob = await spec.pushBlob('all/ends', freshBlob());
    for (const path of [
      `blobs/${blob}`,
      'manifests/1',
      `manifests/${image}`,
      'tags/list',
      'tags/list?n=1&last=0',
      `referrers/${image}`,
      `referrers/${image}?artifactType=application%2Fx`,
    ]) {
      for (const method of ['GET', 'HEAD']) {
        const response = await spec.proxy.fetch(`/v2/all/ends/${path}`, { method });
        expect(response.status, `${method} ${path}`).toBe(200);
        expect(response.headers.get('docker-distribution-api-version')).toBe('registry/2.0');
      }
    }
  });

  test.each([
    ['end-4a', 'POST', '/v2/lib/a/blobs/uploads/'],
    ['end-4b', 'POST', `/v2/lib/a/blobs/uploads/?digest=${DIGEST}`],
    ['end-5', 'PATCH', '/v2/lib/a/blobs/uploads/5e5510'],
    ['end-6', 'PUT', `/v2/lib/a/blobs/uploads/5e5510?digest=${DIGEST}`],
    ['end-7', 'PUT', '/v2/lib/a/manifests/1'],
    ['end-7', 'PUT', `/v2/lib/a/manifests/${DIGEST}`],
    ['end-9', 'DELETE', '/v2/lib/a/manifests/1'],
    ['end-9', 'DELETE', `/v2/lib/a/manifests/${DIGEST}`],
    ['end-10', 'DELETE', `/v2/lib/a/blobs/${DIGEST}`],
    ['end-11', 'POST', `/v2/lib/a/blobs/uploads/?mount=${DIGEST}&from=lib/b`],
    ['end-14', 'DELETE', '/v2/lib/a/blobs/uploads/5e5510'],
    ['anything', 'POST', '/v2/'],
    ['anything', 'OPTIONS', '/v2/lib/a/tags/list'],
    ['anything', 'PUT', '/v2/_catalog'],
  ])('%s, pushing: %s %s is 405 UNSUPPORTED with Allow', async (_end, method, path) => {
    const body = ['POST', 'PUT', 'PATCH'].includes(method) ? 'x'.repeat(1000) : null;
    const response = await spec.proxy.fetch(path, { method, body });
    expect(response.headers.get('allow')).toBe('GET, HEAD');
    expect(response.headers.get('content-type')).toBe('application/json');
    const error = await errorOf(response);
    expect(error).toMatchObject({ status: 405, code: 'UNSUPPORTED' });
    expect(error.message).toContain('push to the registry it mirrors');
  });

  test('end-13, the state of an upload: there is none, 404 BLOB_UPLOAD_UNKNOWN', async () => {
    for (const path of ['/v2/lib/a/blobs/uploads/5e5510', '/v2/lib/a/blobs/uploads/']) {
      const response = await spec.proxy.fetch(path);
      expect(await errorOf(response)).toMatchObject({ status: 404, code: 'BLOB_UPLOAD_UNKNOWN' });
    }
  });

  test('nothing of a push has come to the registry', async () => {
    await spec.proxy.fetch('/v2/pushed/here/manifests/1', { method: 'PUT', body: '{}' });
    await spec.proxy.fetch('/v2/pushed/here/blobs/uploads/', { method: 'POST' });
    const repositories = await (await spec.direct('/v2/_catalog')).json();
    expect(repositories).not.toMatchObject({ repositories: expect.arrayContaining(['pushed/here']) });
  });
});

describe.skipIf(!canRun)('Error Codes', () => {
  test('an error is JSON with code, message and, where it helps, detail', async () => {
    const response = await spec.proxy.fetch('/v2/lib/a/tags/list?n=-1');
    expect(response.headers.get('content-type')).toBe('application/json');
    const body = await response.text();
    expect(response.headers.get('content-length')).toBe(String(body.length));
    expect(JSON.parse(body)).toEqual({
      errors: [
        { code: 'PAGINATION_NUMBER_INVALID', message: expect.stringContaining('"-1"'), detail: { n: '-1' } },
      ],
    });
  });

  test.each([
    ['/v2/Lib/a/manifests/1', 400, 'NAME_INVALID'],
    ['/v2/lib/-a/tags/list', 400, 'NAME_INVALID'],
    ['/v2/lib//a/tags/list', 400, 'NAME_INVALID'],
    ['/v2/lib/a/../b/tags/list', 400, 'NAME_INVALID'],
    ['/v2/lib/%2e%2e/tags/list', 400, 'NAME_INVALID'],
    [`/v2/..%2f..%2fetc/passwd/blobs/${DIGEST}`, 400, 'NAME_INVALID'],
    ['/v2/lib%00a/tags/list', 400, 'NAME_INVALID'],
    ['/v2/lib%20a/tags/list', 400, 'NAME_INVALID'],
    ['/v2/l%C3%AFb/a/tags/list', 400, 'NAME_INVALID'],
    ['/v2/%ff/tags/list', 400, 'NAME_INVALID'],
    ['/v2/%zz/tags/list', 400, 'NAME_INVALID'],
    ['/v2/../healthz', 400, 'NAME_INVALID'],
    [`/v2/${'a/'.repeat(128)}a/tags/list`, 400, 'NAME_INVALID'],
    [`/v2/${'a'.repeat(8000)}/tags/list`, 400, 'NAME_INVALID'],
    ['/v2/lib/a/blobs/sha256:1', 400, 'DIGEST_INVALID'],
    [`/v2/lib/a/blobs/sha256:${'0'.repeat(8000)}`, 400, 'DIGEST_INVALID'],
    [`/v2/lib/a/blobs/${DIGEST}`, 404, 'BLOB_UNKNOWN'],
    ['/v2/lib/a/manifests/1', 404, 'MANIFEST_UNKNOWN'],
    [`/v2/lib/a/manifests/${'t'.repeat(8000)}`, 404, 'MANIFEST_UNKNOWN'],
    ['/v2/blobs/manifests/blobs', 404, 'MANIFEST_UNKNOWN'],
    ['/v2/lib/a/tags/list', 404, 'NAME_UNKNOWN'],
    ['/v2/lib/a/tags/list?ns=elsewhere.example', 404, 'NAME_UNKNOWN'],
    ['/v2/lib/a/tags', 404, 'NAME_UNKNOWN'],
    ['/v2/lib/a/tags/list/', 404, 'NAME_UNKNOWN'],
    ['/v2//tags/list', 404, 'NAME_UNKNOWN'],
    ['/v2/lib/a', 404, 'NAME_UNKNOWN'],
    ['/v1/search', 404, 'NAME_UNKNOWN'],
    ['//v2/', 404, 'NAME_UNKNOWN'],
  ])('%s is %d %s', async (target, status, code) => {
    const answer = await raw(target);
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.body)).toMatchObject({ errors: [{ code, message: expect.any(String) }] });
    expect(answer.body.length).toBeLessThan(1000);
    expect((await raw(target, 'HEAD')).status).toBe(status);
  });

  test('a name may be sent with its slashes and colons encoded', async () => {
    const image = await spec.push('coded/name', '1', freshImage());
    expect((await raw('/v2/coded%2Fname/manifests/1')).status).toBe(200);
    expect((await raw(`/v2/coded/name/manifests/${encodeURIComponent(image)}`)).status).toBe(200);
    expect((await raw(`http://any.example/v2/coded/name/manifests/1`)).status).toBe(200);
  });

  test('what is larger than a request may be is refused, and the next one answered', async () => {
    const headers = { 'x-large': 'x'.repeat(100_000) };
    const refused = await spec.proxy.fetch('/v2/', { headers });
    expect(refused.status).toBe(431);
    expect((await spec.proxy.fetch('/v2/')).status).toBe(200);
  });
});

describe('Error Codes: what upstream answers', () => {
  let upstream: FakeRegistry;
  let proxy: TestProxy;

  beforeAll(async () => {
    upstream = await FakeRegistry.start();
    const upstreams = [{ name: 'reg.example', url: upstream.url }];
    proxy = await TestProxy.start({ upstreams, conversion: { enabled: false } });
  });
  afterAll(async () => {
    await proxy.remove();
    await upstream.stop();
  });

  test.each([
    [403, {}, 403, 'DENIED'],
    [404, {}, 404, null],
    [500, {}, 502, 'UNKNOWN'],
    [418, {}, 502, 'UNKNOWN'],
    // The last: upstream is left alone then.
    [429, { 'retry-after': '30' }, 503, 'UNAVAILABLE'],
  ])('its %d %j becomes %d %s', async (status, headers, ours, code) => {
    upstream.intercept = (_request, response) => {
      response.writeHead(status, headers).end();
      return true;
    };
    for (const [path, unknown] of [
      [`/v2/lib/a/manifests/t${status}`, 'MANIFEST_UNKNOWN'],
      [`/v2/lib/a/blobs/${digestOf(String(status))}`, 'BLOB_UNKNOWN'],
      ['/v2/lib/a/tags/list', 'NAME_UNKNOWN'],
    ] as const) {
      const response = await proxy.fetch(path);
      expect(response.headers.get('retry-after')).toBe(status === 429 ? '30' : null);
      expect(await errorOf(response), path).toMatchObject({ status: ours, code: code ?? unknown });
    }
  });
});

describe.skipIf(!canRun)('Registry Proxying', () => {
  test('ns names the upstream, and OCI-Namespace says so, also in an error', async () => {
    await spec.push('lib/ns', '1', freshImage());
    for (const [path, status] of [
      ['/v2/lib/ns/manifests/1', 200],
      ['/v2/lib/ns/manifests/none', 404],
      ['/v2/lib/ns/tags/list', 200],
      ['/v2/', 200],
    ] as const) {
      const response = await spec.proxy.fetch(`${path}?ns=reg.example`);
      expect(response.status).toBe(status);
      expect(response.headers.get('oci-namespace')).toBe('reg.example');
      expect((await spec.proxy.fetch(path)).headers.get('oci-namespace')).toBeNull();
    }
  });

  test('an upstream that is not ours is 404 NAME_UNKNOWN, so that the client goes on to its next host', async () => {
    for (const namespace of ['elsewhere.example', '127.0.0.1:1', '', 'reg.example/x', '169.254.169.254']) {
      const query = new URLSearchParams({ ns: namespace });
      const response = await spec.proxy.fetch(`/v2/lib/ns/manifests/1?${query}`);
      expect(await errorOf(response), namespace).toMatchObject({ status: 404, code: 'NAME_UNKNOWN' });
    }
  });

  test('a header cannot be made with ns', async () => {
    const query = new URLSearchParams({ ns: 'reg.example\r\nx-made: 1' });
    const response = await spec.proxy.fetch(`/v2/?${query}`);
    expect(response.headers.get('oci-namespace')).toBeNull();
    expect(response.headers.get('x-made')).toBeNull();
  });
});

describe('Warnings', () => {
  test('what may be out of date says so: 299, one line, at most 4096 bytes', async () => {
    const upstream = await FakeRegistry.start();
    upstream.putImage([Buffer.from('x')], '1');
    const upstreams = [{ name: 'reg.example', url: upstream.url }];
    const proxy = await TestProxy.start({ upstreams, tagTtlMs: 0, conversion: { enabled: false } });
    const fresh = await proxy.fetch('/v2/lib/a/manifests/1');
    expect(fresh.headers.get('warning')).toBeNull();
    await upstream.stop();
    for (const method of ['GET', 'HEAD']) {
      const stale = await proxy.fetch('/v2/lib/a/manifests/1', { method });
      expect(stale.status).toBe(200);
      expect(stale.headers.get('warning')).toMatch(/^299 - "[ !#-[\]-~]+"$/);
      expect(stale.headers.get('warning')!.length).toBeLessThanOrEqual(4096);
    }
    await proxy.remove();
  });
});

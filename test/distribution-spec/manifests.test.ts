import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { digestOf } from '../../src/oci/digest.ts';
import { encodeJson } from '../../src/oci/manifest.ts';
import {
  DOCKER_MANIFEST,
  DOCKER_MANIFEST_LIST,
  MANIFEST_ACCEPT,
  OCI_INDEX,
  OCI_MANIFEST,
} from '../../src/oci/media-types.ts';
import { requireCapability } from '../support/capabilities.ts';
import { FakeRegistry } from '../support/fake-registry.ts';
import { freshImage, freshIndex } from '../support/spec-images.ts';
import { lastingHeaders, SpecRegistry } from '../support/spec-registry.ts';
import { bytesOf, errorOf, TestProxy } from '../support/test-proxy.ts';

const canRun = requireCapability('registry');

const KINDS = [
  { kind: 'an OCI image', mediaType: OCI_MANIFEST, repository: 'pull/image', make: () => freshImage() },
  { kind: 'an OCI index', mediaType: OCI_INDEX, repository: 'pull/index', make: () => freshIndex() },
  {
    kind: 'a Docker image',
    mediaType: DOCKER_MANIFEST,
    repository: 'pull/docker',
    make: () => freshImage({ docker: true }),
  },
  {
    kind: 'a Docker manifest list',
    mediaType: DOCKER_MANIFEST_LIST,
    repository: 'pull/list',
    make: () => freshIndex(true),
  },
];

let spec: SpecRegistry;
beforeAll(async () => {
  if (canRun) spec = await SpecRegistry.start();
});
afterAll(async () => {
  if (canRun) await spec.remove();
});

describe.skipIf(!canRun)('Pulling manifests', () => {
  test.each(KINDS)('$kind comes byte for byte by tag and digest, on a miss and on a hit', async (kind) => {
    const { repository, mediaType } = kind;
    const made = kind.make();
    const digest = await spec.push(repository, '1', made);
    for (const reference of ['1', digest, '1', digest]) {
      const response = await spec.proxy.fetch(`/v2/${repository}/manifests/${reference}`);
      expect(response.status).toBe(200);
      expect(lastingHeaders(response)).toMatchObject({
        'content-type': mediaType,
        'content-length': String(made.bytes.length),
        'docker-content-digest': digest,
        etag: `"${digest}"`,
        vary: 'accept',
      });
      expect(await bytesOf(response)).toEqual(made.bytes);
    }
  });

  test('bytes are what was pushed, however they are spaced', async () => {
    const { bytes, ...made } = freshImage();
    const spaced = Buffer.from(`${JSON.stringify(JSON.parse(bytes.toString()), null, 3)}\n\n`);
    await spec.push('pull/spaced', '1', { ...made, bytes: spaced });
    expect(await bytesOf(await spec.proxy.fetch('/v2/pull/spaced/manifests/1'))).toEqual(spaced);
  });

  test('an artifact comes with its subject and its own types', async () => {
    const made = freshImage({ manifest: { artifactType: 'application/vnd.example.sbom' } });
    await spec.push('pull/artifact', '1', made);
    const response = await spec.proxy.fetch('/v2/pull/artifact/manifests/1');
    expect(await response.json()).toMatchObject({ artifactType: 'application/vnd.example.sbom' });
  });

  test('what is not there is 404 MANIFEST_UNKNOWN: tag, digest and repository', async () => {
    await spec.push('pull/some', '1', freshImage());
    for (const path of [
      '/v2/pull/some/manifests/2',
      `/v2/pull/some/manifests/${digestOf('nothing')}`,
      '/v2/pull/none/manifests/1',
      // Too long for a tag: there can be none.
      `/v2/pull/some/manifests/${'t'.repeat(129)}`,
    ]) {
      const response = await spec.proxy.fetch(path);
      expect(response.headers.get('content-type')).toBe('application/json');
      expect(await errorOf(response), path).toMatchObject({ status: 404, code: 'MANIFEST_UNKNOWN' });
    }
  });

  test.each(['sha256:abc', `sha256:${'A'.repeat(64)}`, `md5:${'0'.repeat(32)}`, 'sha256:'])(
    'the digest %s is refused with 400 DIGEST_INVALID',
    async (digest) => {
      const response = await spec.proxy.fetch(`/v2/pull/some/manifests/${digest}`);
      expect(await errorOf(response)).toMatchObject({ status: 400, code: 'DIGEST_INVALID' });
    },
  );

  test('a manifest of another repository is not shown, although it is kept', async () => {
    const digest = await spec.push('pull/mine', '1', freshImage());
    await spec.proxy.fetch(`/v2/pull/mine/manifests/${digest}`);
    const response = await spec.proxy.fetch(`/v2/pull/yours/manifests/${digest}`);
    expect(await errorOf(response)).toMatchObject({ status: 404, code: 'MANIFEST_UNKNOWN' });
  });
});

describe.skipIf(!canRun)('Pulling manifests: the Accept header', () => {
  const ACCEPTS = MANIFEST_ACCEPT.flatMap((one) => [[one], MANIFEST_ACCEPT.filter((other) => other !== one)]);

  test.each(KINDS)('$kind is answered as the registry does, whatever kinds a client takes', async (kind) => {
    const repository = `accept/${kind.repository}`;
    const digest = await spec.push(repository, '1', kind.make());
    for (const accept of ACCEPTS) {
      const headers = { accept: accept.join(', ') };
      for (const method of ['HEAD', 'GET']) {
        const path = `/v2/${repository}/manifests/1`;
        const ours = await spec.proxy.fetch(path, { method, headers });
        const theirs = await spec.direct(path, { method, headers });
        const told = (response: Response) => ({
          accept,
          status: response.status,
          digest: response.headers.get('docker-content-digest'),
          type: response.headers.get('content-type')?.split(';')[0],
        });
        if (theirs.ok) expect(told(ours)).toEqual(told(theirs));
        else expect(ours.status).toBe(404);
        if (theirs.ok && method === 'GET') expect(await bytesOf(ours)).toEqual(await bytesOf(theirs));
      }
    }
    // None of these has changed what the tag is to others.
    const all = await spec.proxy.fetch(`/v2/${repository}/manifests/1`);
    expect(all.headers.get('docker-content-digest')).toBe(digest);
  });

  test('a client that takes no such kind is told of which kind the image is', async () => {
    await spec.push('accept/told', '1', freshIndex());
    const headers = { accept: DOCKER_MANIFEST };
    const { code, message } = await errorOf(
      await spec.proxy.fetch('/v2/accept/told/manifests/1', { headers }),
    );
    expect(code).toBe('MANIFEST_UNKNOWN');
    expect(message).toContain(OCI_INDEX);
  });

  test('by digest a manifest is what it is, whatever the client takes', async () => {
    const digest = await spec.push('accept/digest', '1', freshImage());
    for (const accept of [DOCKER_MANIFEST, 'text/html', '*/*']) {
      const response = await spec.proxy.fetch(`/v2/accept/digest/manifests/${digest}`, {
        headers: { accept },
      });
      expect(response.headers.get('content-type')).toBe(OCI_MANIFEST);
    }
  });

  test('a client that names nothing of ours gets what there is', async () => {
    await spec.push('accept/any', '1', freshIndex());
    for (const accept of ['*/*', 'application/json', `${DOCKER_MANIFEST}, */*`]) {
      const response = await spec.proxy.fetch('/v2/accept/any/manifests/1', { headers: { accept } });
      expect(response.headers.get('content-type'), accept).toBe(OCI_INDEX);
    }
  });
});

describe.skipIf(!canRun)('Checking if content exists in the registry: manifests', () => {
  test.each(KINDS)('HEAD of $kind says what GET says, and 404 where GET does', async (kind) => {
    const repository = `head/${kind.repository}`;
    const made = kind.make();
    const digest = await spec.push(repository, '1', made);
    for (const reference of ['1', digest, 'none', digestOf('none')]) {
      const path = `/v2/${repository}/manifests/${reference}`;
      const head = await spec.proxy.fetch(path, { method: 'HEAD' });
      const get = await spec.proxy.fetch(path);
      const again = await spec.proxy.fetch(path, { method: 'HEAD' });
      expect(get.status).toBe(reference.endsWith('none') || reference === digestOf('none') ? 404 : 200);
      expect([head.status, lastingHeaders(head)]).toEqual([get.status, lastingHeaders(get)]);
      expect([again.status, lastingHeaders(again)]).toEqual([get.status, lastingHeaders(get)]);
      expect(await head.text()).toBe('');
    }
    const head = await spec.proxy.fetch(`/v2/${repository}/manifests/1`, { method: 'HEAD' });
    expect(head.headers.get('content-length')).toBe(String(made.bytes.length));
  });
});

describe.skipIf(!canRun)('Conditional requests of manifests (RFC 9110, 13)', () => {
  test('If-None-Match is 304 for what the client has, with its headers and no body', async () => {
    const digest = await spec.push('condition/none', '1', freshImage());
    const etag = `"${digest}"`;
    for (const reference of ['1', digest]) {
      const path = `/v2/condition/none/manifests/${reference}`;
      for (const method of ['GET', 'HEAD']) {
        for (const condition of [etag, `W/${etag}`, `"x", ${etag}`, '*', digest]) {
          const response = await spec.proxy.fetch(path, { method, headers: { 'if-none-match': condition } });
          expect(response.status, `${method} ${condition}`).toBe(304);
          expect(lastingHeaders(response)).toMatchObject({ etag, 'docker-content-digest': digest });
          expect(await response.text()).toBe('');
        }
        const other = await spec.proxy.fetch(path, { method, headers: { 'if-none-match': '"x"' } });
        expect(other.status).toBe(200);
      }
    }
  });

  test('If-Match is 412 for what the client does not have, before If-None-Match', async () => {
    const digest = await spec.push('condition/match', '1', freshImage());
    const etag = `"${digest}"`;
    const statusOf = async (headers: Record<string, string>) =>
      (await spec.proxy.fetch('/v2/condition/match/manifests/1', { headers })).status;
    expect(await statusOf({ 'if-match': '"x"' })).toBe(412);
    expect(await statusOf({ 'if-match': `W/${etag}` })).toBe(412);
    expect(await statusOf({ 'if-match': '"x"', 'if-none-match': etag })).toBe(412);
    expect(await statusOf({ 'if-match': etag })).toBe(200);
    expect(await statusOf({ 'if-match': '*' })).toBe(200);
  });

  test('a condition does not make up for what is not there', async () => {
    for (const headers of [{ 'if-none-match': '*' }, { 'if-match': '"x"' }]) {
      const response = await spec.proxy.fetch('/v2/condition/absent/manifests/1', { headers });
      expect(await errorOf(response)).toMatchObject({ status: 404, code: 'MANIFEST_UNKNOWN' });
    }
  });
});

describe('Pulling manifests: from a registry that Debian has none of', () => {
  let upstream: FakeRegistry;
  let proxy: TestProxy;

  beforeEach(async () => {
    upstream = await FakeRegistry.start();
    const upstreams = [{ name: 'reg.example', url: upstream.url }];
    proxy = await TestProxy.start({ upstreams, conversion: { enabled: false } });
  });
  afterEach(async () => {
    await proxy.remove();
    await upstream.stop();
  });

  test('a manifest of a type that nobody knows comes as it is', async () => {
    for (const bytes of [Buffer.from('{"anything": [1, 2]}'), Buffer.from('not even JSON')]) {
      const digest = upstream.putManifest(bytes, 'application/vnd.example.new+json', `t${bytes.length}`);
      for (const reference of [`t${bytes.length}`, digest]) {
        const response = await proxy.fetch(`/v2/lib/a/manifests/${reference}`, {
          headers: { accept: 'application/vnd.example.new+json' },
        });
        expect(response.headers.get('content-type')).toBe('application/vnd.example.new+json');
        expect(await bytesOf(response)).toEqual(bytes);
      }
    }
  });

  test('parameters of the content type are not handed on', async () => {
    const { digest } = upstream.putImage([Buffer.from('x')]);
    upstream.putManifest(Buffer.from('{}'), `${OCI_MANIFEST}; charset=utf-8`, '1');
    expect(digest).toMatch(/^sha256:/);
    const response = await proxy.fetch('/v2/lib/a/manifests/1');
    expect(response.headers.get('content-type')).toBe(OCI_MANIFEST);
  });

  test('a manifest over 4 MiB is refused with its size, and what is as large as that is served', async () => {
    const fitting = Buffer.alloc(4 * 1024 * 1024, ' ');
    upstream.putManifest(fitting, OCI_MANIFEST, 'fitting');
    upstream.putManifest(Buffer.concat([fitting, Buffer.from(' ')]), OCI_MANIFEST, 'big');
    expect((await bytesOf(await proxy.fetch('/v2/lib/a/manifests/fitting'))).equals(fitting)).toBe(true);
    expect(await errorOf(await proxy.fetch('/v2/lib/a/manifests/big'))).toMatchObject({
      status: 502,
      message: expect.stringContaining('4194305 bytes, 4194304 are allowed'),
    });
  });

  test('what a client takes is part of what is kept of a tag', async () => {
    const image = upstream.putImage([Buffer.from('x')]);
    upstream.putIndex([image], '1');
    // A registry that picks the image out of the index for whom does not take an index.
    upstream.intercept = (request, response) => {
      const { accept = '' } = request.headers;
      if (!request.url?.endsWith('/manifests/1') || accept.includes(OCI_INDEX)) return false;
      const headers = { 'content-type': OCI_MANIFEST, 'docker-content-digest': image.digest };
      response.writeHead(200, { ...headers, 'content-length': image.bytes.length });
      response.end(request.method === 'HEAD' ? undefined : image.bytes);
      return true;
    };
    const typeFor = async (accept: string) => {
      const response = await proxy.fetch('/v2/lib/a/manifests/1', { headers: { accept } });
      return response.headers.get('content-type');
    };
    expect(await typeFor(OCI_MANIFEST)).toBe(OCI_MANIFEST);
    expect(await typeFor(MANIFEST_ACCEPT.join(', '))).toBe(OCI_INDEX);
    const asked = upstream.requests.length;
    expect(await typeFor(OCI_MANIFEST)).toBe(OCI_MANIFEST);
    expect(await typeFor(`${OCI_INDEX}, ${OCI_MANIFEST}`)).toBe(OCI_INDEX);
    expect(upstream.requests).toHaveLength(asked);
    expect(await (await proxy.fetch('/v2/lib/a/tags/list')).json()).toMatchObject({ tags: ['1'] });
    await upstream.stop();
    expect(await typeFor(OCI_MANIFEST)).toBe(OCI_MANIFEST);
    // What is kept for a kind of clients is not listed among the tags.
    expect(await (await proxy.fetch('/v2/lib/a/tags/list')).json()).toMatchObject({ tags: ['1'] });
  });

  describe('Content Digests', () => {
    test('a manifest that is asked for by sha512 is answered by it', async () => {
      const bytes = encodeJson({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] });
      const digest = `sha512:${createHash('sha512').update(bytes).digest('hex')}`;
      // Upstream names it by sha256 all the same.
      upstream.putManifest(bytes, OCI_INDEX, digest);
      for (const method of ['HEAD', 'GET', 'GET']) {
        const response = await proxy.fetch(`/v2/lib/a/manifests/${digest}`, { method });
        expect(response.headers.get('docker-content-digest')).toBe(digest);
        if (method === 'GET') expect(await bytesOf(response)).toEqual(bytes);
      }
      // Of what is kept, upstream is asked whether another repository has it, too.
      const elsewhere = await proxy.fetch(`/v2/lib/b/manifests/${digest}`);
      expect(await bytesOf(elsewhere)).toEqual(bytes);
      expect(upstream.count('GET', digest)).toBe(1);
    });
  });
});

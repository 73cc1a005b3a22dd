import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { type Digest, digestHex, digestOf } from '../../oci/digest.ts';

const LONG = { timeout: 30_000, interval: 50 };

const TTL_MS = 5_000;

useProxiedRegistry({
  tagTtlMs: 0,
  conversion: { concurrency: 2 },
  cache: { notFoundTtlMs: 60_000, spareMs: 0 },
});

function layer(name: string, bytes = 100_000): Buffer {
  return Buffer.concat([tarMember({ path: name }, randomBytes(bytes)), END_BLOCKS]);
}

async function json<T>(path: string, method = 'GET'): Promise<T> {
  const response = await proxy.adminFetch(path, { method });
  expect(response.status, `${method} ${path}`).toBeLessThan(300);
  return (await response.json()) as T;
}

async function converted(digest: Digest): Promise<Digest> {
  return vi.waitFor(async () => {
    const status = await json<{ state: string; converted: { digest: Digest } }>(
      `/dadi/v1/conversions/${digest}`,
    );
    expect(status.state).toBe('done');
    return status.converted.digest;
  }, LONG);
}

async function pull(repository: string, reference: string, layers: readonly Digest[]): Promise<void> {
  expect((await proxy.fetch(`/v2/${repository}/manifests/${reference}`)).status).toBe(200);
  for (const digest of layers) {
    expect(digestOf(await bytesOf(await proxy.fetch(`/v2/${repository}/blobs/${digest}`)))).toBe(digest);
  }
}

test('an image that is missing upstream is asked for once, however many want it', async () => {
  const missing = digestOf('missing');
  for (const path of [`manifests/none`, `manifests/${missing}`, `blobs/${missing}`]) {
    for (let round = 0; round < 20; round++) {
      expect((await proxy.fetch(`/v2/lib/a/${path}`)).status).toBe(404);
    }
    const asked = upstream.requests.filter((seen) => seen.path.endsWith(path));
    expect(asked.length, path).toBe(1);
  }
  expect((await proxy.fetch(`/v2/lib/b/blobs/${missing}`)).status).toBe(404);
  expect(upstream.count('GET', `lib/b/blobs/${missing}`)).toBe(1);
});

test('only that upstream has nothing is remembered: not that it refuses, limits or fails', async () => {
  const image = upstream.putImage([layer('one')], '1');
  for (const status of [401, 403, 429, 500]) {
    upstream.intercept = (_request, response) => {
      response.writeHead(status).end();
      return true;
    };
    expect((await proxy.fetch('/v2/lib/a/manifests/1')).status).toBeGreaterThanOrEqual(400);
    expect((await proxy.fetch(`/v2/lib/a/blobs/${image.config}`)).status).toBeGreaterThanOrEqual(400);
  }
  upstream.intercept = () => false;
  await vi.waitFor(() => pull('lib/a', '1', [image.config]), LONG);
});

test('many clients that ask for a stale tag at once are one question to upstream', async () => {
  const image = upstream.putImage([layer('one')], '1');
  // Fresh again once it was asked for: whose connection comes late asks no second time.
  const patient = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    tagTtlMs: TTL_MS,
    conversion: { enabled: false },
  });
  const ask = () => patient.fetch('/v2/lib/a/manifests/1');
  expect((await ask()).status).toBe(200);
  await delay(TTL_MS);
  const before = upstream.count('HEAD', '/manifests/1');
  const held: (() => void)[] = [];
  upstream.intercept = (request, response) => {
    if (request.method !== 'HEAD') return false;
    held.push(() => {
      response.writeHead(200, {
        'content-type': 'application/vnd.oci.image.manifest.v1+json',
        'content-length': image.bytes.length,
        'docker-content-digest': image.digest,
      });
      response.end();
    });
    return true;
  };
  const asked = Array.from({ length: 50 }, ask);
  await vi.waitFor(() => expect(held.length).toBe(1), LONG);
  const first = await Promise.race([...asked, Promise.resolve(null)]);
  expect(first).toBeNull();
  for (const go of held) go();
  upstream.intercept = () => false;
  for (const answer of await Promise.all(asked)) expect(answer.status).toBe(200);
  expect(upstream.count('HEAD', '/manifests/1') - before).toBe(1);
  await patient.remove();
});

test('an upstream that limits is left alone for as long as it asks, and what is kept is served', async () => {
  const image = upstream.putImage([layer('one')], '1');
  await pull('lib/a', '1', []);
  upstream.intercept = (_request, response) => {
    response.writeHead(429, { 'retry-after': '600' }).end();
    return true;
  };
  const before = upstream.requests.length;
  for (let round = 0; round < 10; round++) {
    const stale = await proxy.fetch('/v2/lib/a/manifests/1');
    expect(stale.headers.get('docker-content-digest')).toBe(image.digest);
    expect(stale.headers.get('warning')).toContain('ERR_REGISTRY_RATE_LIMITED');
  }
  // The conversion may ask for a layer, too.
  expect(upstream.requests.slice(before).filter((seen) => seen.method === 'HEAD').length).toBe(1);
});

test('what is kept is listed: repositories, images, sizes, whether they are converted', async () => {
  const image = upstream.putImage([layer('one')], '1');
  await pull('lib/a', '1', [image.config, ...image.layers]);
  await converted(image.digest);
  interface Listed {
    blobs: number;
    bytes: number;
    repositories: { upstream: string; repository: string; manifests: number; keptBytes: number }[];
  }
  const all = await json<Listed>('/dadi/v1/cache');
  expect(all.repositories).toMatchObject([{ upstream: 'reg.example', repository: 'lib/a', manifests: 1 }]);
  expect(all.bytes).toBeGreaterThan(100_000);
  const { images } = await json<{ images: object[] }>('/dadi/v1/cache?repository=reg.example/lib/a');
  expect(images).toMatchObject([
    { digest: image.digest, tags: ['1'], missingParts: 0, conversion: 'done', usedAt: expect.any(String) },
  ]);
});

test('a converted layer that is removed is converted again at the next pull, and not promised until then', async () => {
  const image = upstream.putImage([layer('one')], '1');
  await pull('lib/a', '1', []);
  const made = await converted(image.digest);
  const manifest = JSON.parse((await bytesOf(await proxy.fetch(`/v2/lib/a/manifests/1_obd`))).toString()) as {
    layers: { digest: Digest }[];
  };
  const removed = await json<{ removedBlobs: number; held: string[] }>(
    `/dadi/v1/cache?blob=${manifest.layers[0]!.digest}`,
    'DELETE',
  );
  expect(removed).toMatchObject({ removedBlobs: 1, held: [] });
  expect((await proxy.fetch(`/v2/lib/a/manifests/${made}`)).status).toBe(404);
  expect((await proxy.fetch(`/dadi/v1/conversions/${image.digest}`)).status).toBe(404);
  await pull('lib/a', '1', []);
  expect(await converted(image.digest)).toBe(made);
  await pull('lib/a', '1_obd', [manifest.layers[0]!.digest]);
});

test('an image that is removed is gone with what was made of it, but not what other images need', async () => {
  const shared = layer('shared');
  const one = upstream.putImage([shared, layer('one')], '1');
  const two = upstream.putImage([shared], '2');
  for (const [tag, image] of [
    ['1', one],
    ['2', two],
  ] as const) {
    await pull('lib/a', tag, [image.config, ...image.layers]);
    await converted(image.digest);
  }
  const index = upstream.putIndex([one], 'all');
  await pull('lib/b', 'all', []);
  await pull('lib/b', one.digest, []);
  await converted(index.digest);
  await json('/dadi/v1/cache?repository=reg.example/lib/b', 'DELETE');
  await json('/dadi/v1/cache?repository=reg.example/lib/a&reference=1', 'DELETE');
  await upstream.stop();
  expect((await proxy.fetch(`/v2/lib/a/blobs/${one.layers[1]}`)).status).toBe(503);
  await pull('lib/a', two.digest, [two.config, ...two.layers]);
  const { repositories } = await json<{ repositories: { repository: string }[] }>('/dadi/v1/cache');
  expect(repositories.map(({ repository }) => repository)).toEqual(['lib/a']);
  const unknown = await proxy.adminFetch('/dadi/v1/cache?repository=reg.example/lib/a&reference=1', {
    method: 'DELETE',
  });
  expect(await errorOf(unknown)).toMatchObject({ status: 404, code: 'MANIFEST_UNKNOWN' });
});

test('cleaning up by size leaves what can be pulled and converted again', async () => {
  const image = upstream.putImage([layer('one', 2_000_000)], '1');
  await pull('lib/a', '1', [image.config, ...image.layers]);
  const made = await converted(image.digest);
  await proxy.stop();
  await proxy.start({ cache: { maxBytes: 1, spareMs: 0, notFoundTtlMs: 0 } });
  await vi.waitFor(async () => {
    await json('/dadi/v1/gc', 'POST');
    expect(await json('/dadi/v1/cache')).toMatchObject({ blobs: 0, bytes: 0, repositories: [] });
  }, LONG);
  await proxy.stop();
  await proxy.start();
  expect((await proxy.fetch(`/v2/lib/a/manifests/${made}`)).status).toBe(404);
  await pull('lib/a', '1', [image.config, ...image.layers]);
  expect(await converted(image.digest)).toBe(made);
  await pull('lib/a', '1_obd', []);
});

test('a blob that is damaged on the disk is found when it is read short, and fetched anew', async () => {
  const image = upstream.putImage([layer('one', 2_000_000)], '1');
  const digest = image.layers[0]!;
  await pull('lib/a', '1', [digest]);
  await converted(image.digest);
  const hex = digestHex(digest);
  const path = join(proxy.directory, 'blobs', 'sha256', hex.slice(0, 2), hex);
  const response = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  const bytes = readFileSync(path);
  writeFileSync(path, bytes.subarray(0, 300_000));
  await bytesOf(response).catch(() => null);
  await vi.waitFor(async () => {
    const again = await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`));
    expect(digestOf(again)).toBe(digest);
  }, LONG);
});

interface Job {
  readonly id: string;
  readonly isOver: boolean;
  readonly images: readonly {
    readonly image: string;
    readonly state: string;
    readonly error: string | null;
  }[];
}

test('images are pulled and converted before anybody asks for them; each failure is told', async () => {
  const one = upstream.putImage([layer('one')], '1');
  const other = upstream.putImage([layer('other')]);
  const index = upstream.putIndex([one, other], 'all');
  const query = 'image=reg.example/lib/a:1&image=reg.example/lib/a:none&image=reg.example/lib/a:all';
  const begun = await json<Job>(`/dadi/v1/preheat?${query}&platform=linux/amd64`, 'POST');
  const job = await vi.waitFor(async () => {
    const now = await json<Job>(`/dadi/v1/preheat/${begun.id}`);
    expect(now.isOver).toBe(true);
    return now;
  }, LONG);
  expect(job.images).toMatchObject([
    { image: 'reg.example/lib/a:1', state: 'done', blobsDone: 2, blobsTotal: 2, error: null },
    { state: 'failed', error: expect.stringContaining('none') },
    { state: 'done', blobsDone: 2, blobsTotal: 2 },
  ]);
  await converted(one.digest);
  await converted(index.digest);
  const before = upstream.count('GET', one.layers[0]!);
  await pull('lib/a', '1', [one.config, ...one.layers]);
  expect(upstream.count('GET', one.layers[0]!)).toBe(before);
  const refused = await proxy.adminFetch('/dadi/v1/preheat?image=elsewhere.example/a', { method: 'POST' });
  expect(await errorOf(refused)).toMatchObject({ status: 404, code: 'NAME_UNKNOWN' });
});

test('conversions and cleaning up at the same time: what is said to be converted is all there', async () => {
  const images = Array.from({ length: 4 }, (_, at) =>
    upstream.putImage([layer(`base ${at % 2}`), layer(`top ${at}`)], `${at}`),
  );
  await proxy.stop();
  await proxy.start({ cache: { maxBytes: 1, spareMs: 0, notFoundTtlMs: 0 } });
  let isOver = false;
  const cleaning = (async () => {
    while (!isOver) await json('/dadi/v1/gc', 'POST');
  })();
  for (let round = 0; round < 5; round++) {
    await Promise.all(images.map((image, at) => pull('lib/a', `${at}`, image.layers)));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  isOver = true;
  await cleaning;
  await proxy.stop();
  await proxy.start({ cache: { spareMs: 0, notFoundTtlMs: 0 } });
  for (const [at, image] of images.entries()) {
    await pull('lib/a', `${at}`, image.layers);
    await vi.waitFor(async () => {
      const response = await proxy.fetch(`/v2/lib/a/manifests/${at}_obd`);
      const status = await json<{ state: string; error: string | null }>(
        `/dadi/v1/conversions/${image.digest}`,
      );
      // One that lost a part while it ran is tried again by itself, later.
      if (status.state === 'failed') await json(`/dadi/v1/conversions/${image.digest}/retry`, 'POST');
      expect(response.status, JSON.stringify(status)).toBe(200);
      const made = JSON.parse((await bytesOf(response)).toString()) as { layers: { digest: Digest }[] };
      expect(made.layers).toHaveLength(2);
      await pull(
        'lib/a',
        `${at}_obd`,
        made.layers.map(({ digest }) => digest),
      );
    }, LONG);
  }
  await proxy.allFinished();
});

import { getPriority } from 'node:os';
import process from 'node:process';
import { afterEach, expect, test, vi } from 'vitest';
import { ended, layerOf } from '../../../test/support/conversions.ts';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { bytesOf, errorOf } from '../../../test/support/test-proxy.ts';
import { threadPriorities } from '../../../test/support/thread-priorities.ts';
import {
  CHUNK_TABLE_DIGEST_ANNOTATION,
  OVERLAYBD_ARTIFACT_TYPE,
  OVERLAYBD_BLOB_DIGEST_ANNOTATION,
  OVERLAYBD_VERSION_ANNOTATION,
} from '../../oci/annotations.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { type ImageManifest, type IndexManifest, parseManifest } from '../../oci/manifest.ts';
import { Catalog } from '../../store/catalog.ts';
import type { ConversionStatus } from './conversion-status.ts';

useProxiedRegistry({ tagTtlMs: 60_000, conversion: { concurrency: 2 } });

afterEach(() => {
  vi.restoreAllMocks();
});

async function statusOf(digest: Digest): Promise<ConversionStatus> {
  return (await (await proxy.fetch(`/dadi/v1/conversions/${digest}`)).json()) as ConversionStatus;
}

async function manifestAt(path: string): Promise<ImageManifest | IndexManifest> {
  const response = await proxy.fetch(path);
  expect(response.status).toBe(200);
  return parseManifest(await bytesOf(response), response.headers.get('content-type'));
}

test('an image that is pulled is converted: by its tag with _obd, and as a referrer', async () => {
  const image = upstream.putImage([layerOf('one'), layerOf('two')], '1');
  const unknown = await proxy.fetch(`/dadi/v1/conversions/${image.digest}`);
  expect(await errorOf(unknown)).toMatchObject({ status: 404 });
  await proxy.fetch('/v2/lib/a/manifests/1');
  const status = await ended(proxy, image.digest);
  expect(status).toMatchObject({
    digest: image.digest,
    state: 'done',
    upstream: 'reg.example',
    repository: 'lib/a',
    layersDone: 2,
    layersTotal: 2,
    error: null,
    durationMs: expect.any(Number),
    ahead: null,
  });
  expect(status.bytesDone).toBe(status.bytesTotal);

  const manifest = (await manifestAt('/v2/lib/a/manifests/1_obd')) as ImageManifest;
  expect(digestOf(manifest.bytes)).toBe(status.converted?.digest);
  expect(manifest.subject?.digest).toBe(image.digest);
  const blobs = [manifest.config.digest];
  expect(status.converted?.layerBytes).toBe(manifest.layers.reduce((sum, { size }) => sum + size, 0));
  for (const { digest, annotations = {} } of manifest.layers) {
    expect(annotations[OVERLAYBD_BLOB_DIGEST_ANNOTATION]).toBe(digest);
    blobs.push(digest, annotations[CHUNK_TABLE_DIGEST_ANNOTATION] as Digest);
  }
  const before = upstream.requests.length;
  for (const digest of blobs) {
    expect(digestOf(await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`)))).toBe(digest);
  }
  expect(upstream.requests.length).toBe(before);

  const referrers = await proxy.fetch(
    `/v2/lib/a/referrers/${image.digest}?artifactType=${encodeURIComponent(OVERLAYBD_ARTIFACT_TYPE)}`,
  );
  expect(await referrers.json()).toMatchObject({
    manifests: [
      {
        digest: status.converted?.digest,
        size: manifest.bytes.length,
        artifactType: OVERLAYBD_ARTIFACT_TYPE,
        annotations: manifest.annotations,
      },
    ],
  });
  const list = (await (await proxy.adminFetch('/dadi/v1/conversions')).json()) as { conversions: object[] };
  expect(list.conversions).toEqual([await statusOf(image.digest)]);
});

test('pull and conversion together download each layer once', async () => {
  const image = upstream.putImage([layerOf('one', 3_000_000)], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`));
  await ended(proxy, image.digest);
  expect(upstream.count('GET', image.layers[0]!)).toBe(1);
});

test('images that are converted at the same time convert their common base once', async () => {
  const base = layerOf('base', 3_000_000);
  const images = [upstream.putImage([base], 'one'), upstream.putImage([base, layerOf('two')], 'two')];
  const go = Promise.withResolvers<void>();
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.endsWith(digestOf(base))) return false;
    void go.promise.then(() => response.writeHead(200, { 'content-length': base.length }).end(base));
    return true;
  };
  const layer = vi.spyOn(Catalog.prototype, 'layer');
  const looks = () => layer.mock.calls.filter(([chain]) => chain === digestOf(base)).length;
  // Whoever makes it looks before and after it has got hold of it, and has one of the two turns.
  await proxy.fetch('/v2/lib/a/manifests/one');
  await vi.waitFor(() => expect(looks()).toBe(2), { timeout: 60_000 });
  // With the other turn, the other one looks and finds nothing.
  await proxy.fetch('/v2/lib/a/manifests/two');
  await vi.waitFor(() => expect(looks()).toBeGreaterThanOrEqual(3), { timeout: 60_000 });
  go.resolve();
  for (const image of images) expect(await ended(proxy, image.digest)).toMatchObject({ state: 'done' });
  const chains = proxy.logged.filter(({ msg }) => msg === 'chain converted').map(({ chain }) => chain);
  expect(chains).toHaveLength(2);
  expect(new Set(chains).size).toBe(2);
}, 60_000);

test('the threads of conversions go behind all others', async () => {
  const own = getPriority(process.pid);
  const image = upstream.putImage([layerOf('one')], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  await ended(proxy, image.digest);
  expect(threadPriorities()).toContain(Math.max(own, 10));
  expect(getPriority(process.pid)).toBe(own);
});

test('to ask for the converted image is enough to have it made, and says how far it is', async () => {
  const image = upstream.putImage([layerOf('one')], '1');
  const early = await errorOf(await proxy.fetch('/v2/lib/a/manifests/1_obd'));
  expect(early).toMatchObject({ status: 404, code: 'MANIFEST_UNKNOWN' });
  expect(early.message).toMatch(/waits for its conversion|is being converted: \d+ %/);
  await ended(proxy, image.digest);
  expect((await proxy.fetch('/v2/lib/a/manifests/1_obd')).status).toBe(200);
});

test('a conversion that fails says why, and the image is served as it is', async () => {
  const image = upstream.putImage([Buffer.alloc(4096, 'no tar')], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  const status = await ended(proxy, image.digest);
  expect(status).toMatchObject({ state: 'failed', converted: null });
  expect(status.error).toBeTruthy();
  const refused = await errorOf(await proxy.fetch('/v2/lib/a/manifests/1_obd'));
  expect(refused.message).toContain(status.error);
  expect(await bytesOf(await proxy.fetch('/v2/lib/a/manifests/1'))).toEqual(image.bytes);
  expect(proxy.unfinished()).toEqual([]);
});

test('what is no image to convert says so', async () => {
  const index = upstream.putIndex([], 'empty');
  const refused = await errorOf(await proxy.fetch('/v2/lib/a/manifests/empty_obd'));
  expect(refused.message).toContain(`${index.digest} is not converted: the index holds no images`);
});

test('a tag of upstream that ends in _obd is served as any other', async () => {
  const image = upstream.putImage([layerOf('one')], 'stock_obd');
  const response = await proxy.fetch('/v2/lib/a/manifests/stock_obd');
  expect(response.headers.get('docker-content-digest')).toBe(image.digest);
});

test('an index is converted to an index of its converted images', async () => {
  const images = [upstream.putImage([layerOf('amd64')]), upstream.putImage([layerOf('arm64')])];
  const index = upstream.putIndex(images, 'all');
  await proxy.fetch('/v2/lib/a/manifests/all');
  await ended(proxy, index.digest);
  const made = (await manifestAt('/v2/lib/a/manifests/all_obd')) as IndexManifest;
  expect(made.kind).toBe('index');
  expect(made.subject?.digest).toBe(index.digest);
  for (const [at, entry] of made.manifests.entries()) {
    const manifest = (await manifestAt(`/v2/lib/a/manifests/${entry.digest}`)) as ImageManifest;
    expect(manifest.subject?.digest).toBe(images[at]?.digest);
    const [first] = manifest.layers;
    expect((await proxy.fetch(`/v2/lib/a/blobs/${first?.digest}`)).status).toBe(200);
  }
  for (const { digest } of [{ digest: digestOf(made.bytes) }, ...made.manifests]) {
    expect((await proxy.fetch(`/dadi/v1/conversions/${digest}`)).status).toBe(404);
  }
}, 60_000);

test('an index over converted images of other tools is not converted again', async () => {
  const { layers, ...manifest } = JSON.parse(upstream.putImage([layerOf('one')]).bytes.toString());
  const annotations = { [OVERLAYBD_VERSION_ANNOTATION]: '0.1.0' };
  const bytes = Buffer.from(
    JSON.stringify({ ...manifest, layers: layers.map((one: object) => ({ ...one, annotations })) }),
  );
  const image = { digest: upstream.putManifest(bytes, manifest.mediaType), bytes };
  const index = upstream.putIndex([{ ...image, config: manifest.config.digest, layers: [] }], 'stock');
  await proxy.fetch('/v2/lib/a/manifests/stock');
  expect((await ended(proxy, index.digest)).state).toBe('failed');
  expect(await statusOf(image.digest)).toMatchObject({
    state: 'failed',
    error: expect.stringContaining('overlaybd format already'),
  });
}, 60_000);

test('another repository gets the converted image only with the original', async () => {
  const image = upstream.putImage([layerOf('one')], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  const digest = (await ended(proxy, image.digest)).converted!.digest;
  upstream.intercept = (request, response) => {
    if (request.url?.includes(digest) !== true) return false;
    response.writeHead(404).end();
    return true;
  };
  expect((await proxy.fetch(`/v2/lib/b/manifests/${digest}`)).status).toBe(404);
  const before = await proxy.fetch(`/v2/lib/b/referrers/${image.digest}`);
  expect(await before.json()).toMatchObject({ manifests: [] });
  await proxy.fetch('/v2/lib/b/manifests/1');
  const after = await proxy.fetch(`/v2/lib/b/referrers/${image.digest}`);
  expect(await after.json()).toMatchObject({ manifests: [{ digest }] });
  expect((await proxy.fetch(`/v2/lib/b/manifests/${digest}`)).status).toBe(200);
});

test('converted images are there after a restart without upstream', async () => {
  const image = upstream.putImage([layerOf('one')], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  const { converted: made } = await ended(proxy, image.digest);
  await proxy.stop();
  await upstream.stop();
  await proxy.start();
  const response = await proxy.fetch('/v2/lib/a/manifests/1_obd');
  expect(response.headers.get('docker-content-digest')).toBe(made?.digest);
});

test('a converted image that is pulled is not converted again', async () => {
  const image = upstream.putImage([layerOf('one')], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  const { converted: made } = await ended(proxy, image.digest);
  await proxy.fetch('/v2/lib/a/manifests/1_obd');
  await proxy.fetch(`/v2/lib/a/manifests/${made?.digest}`);
  expect((await proxy.fetch(`/dadi/v1/conversions/${made?.digest}`)).status).toBe(404);
});

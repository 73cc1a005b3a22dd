import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readAll } from '../../../test/support/byte-sources.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { golden } from '../../../test/support/golden.ts';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import {
  CHUNK_TABLE_DIGEST_ANNOTATION,
  OVERLAYBD_BLOB_DIGEST_ANNOTATION,
  OVERLAYBD_VERSION_ANNOTATION,
} from '../../oci/annotations.ts';
import { chainIds } from '../../oci/chain-id.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from '../../oci/media-types.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import { newReadStats } from '../chunks/read-stats.ts';
import { openDevice } from '../image/device.ts';
import type { LayeredImage } from '../image/image.ts';
import { openImage } from '../image/image-source.ts';
import { Proxies } from './proxies.ts';
import { SourceCredentials } from './source-credentials.ts';

useProxiedRegistry({ tagTtlMs: 60_000, conversion: { concurrency: 2 } });

const BLOBS = ['layer1.zstd-16k.tar.obd', 'layer2.lz4-4k.tar.obd', 'layer3.lz4-4k.tar.obd'].map((name) =>
  golden(`ext4/${name}`).bytes(),
);
const DIFF_IDS = BLOBS.map((blob) => digestOf(blob));
const CHAINS = chainIds(DIFF_IDS);

let directory: string;
let cache: ChunkCache;
let relay: FaultyRelay;
let proxies: Proxies;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-stock-'));
  cache = await ChunkCache.open(join(directory, 'cache'));
  relay = await FaultyRelay.start(proxy.url);
  proxies = open();
});

afterEach(async () => {
  await proxies.close();
  await cache.close();
  await relay.stop();
  rmSync(directory, { recursive: true });
});

function open(): Proxies {
  const credentials = new SourceCredentials({ file: null, dockerConfig: null });
  return new Proxies({ urls: [new URL(relay.url)], credentials });
}

/** As the stock converter pushes it, at upstream. */
function putStockImage(more: (blob: Digest) => object = () => ({})): Digest {
  const config = Buffer.from(
    JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: DIFF_IDS } }),
  );
  const layers = BLOBS.map((blob) => {
    const digest = upstream.putBlob(blob);
    const annotations = {
      [OVERLAYBD_VERSION_ANNOTATION]: '0.1.0',
      [OVERLAYBD_BLOB_DIGEST_ANNOTATION]: digest,
      ...more(digest),
    };
    return { mediaType: OCI_LAYER_TAR, digest, size: blob.length, annotations };
  });
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: OCI_CONFIG, digest: upstream.putBlob(config), size: config.length },
    layers,
  };
  return upstream.putManifest(Buffer.from(JSON.stringify(manifest)), OCI_MANIFEST, '1');
}

function find(manifestDigest: Digest, chainId: Digest) {
  const image = { registry: 'reg.example', repository: 'lib/a', manifestDigest };
  return proxies.find(chainId, image, { waitMs: 0 });
}

/** Opens a device and reads each of its layers whole. */
async function bytesOfLayers(image: LayeredImage): Promise<{ fsType: string; blobs: Digest[] }> {
  const access = { cache, stats: newReadStats() };
  const { fsType, close } = await openDevice(image, access);
  const blobs = await Promise.all(
    image.layers.map(async (layer) => {
      const blob = await image.openLayer(layer, access);
      const bytes = await readAll(blob);
      await blob.close();
      return digestOf(bytes);
    }),
  );
  await close();
  return { fsType, blobs };
}

test.each([1, 3])('the lowest %i layers of an image made by stock tools are a chain', async (count) => {
  const image = putStockImage();
  const answer = await find(image, CHAINS[count - 1]!);
  if (answer.kind !== 'converted') throw new Error(JSON.stringify(answer));
  expect(answer.chain.layers.map((layer) => layer.digest)).toEqual(DIFF_IDS.slice(0, count));
  const read = await bytesOfLayers(proxies.image(answer.chain));
  expect(read).toEqual({ fsType: 'ext4', blobs: DIFF_IDS.slice(0, count) });
});

test('a chain of a stock image that was found earlier opens by the same tables, and by no others', async () => {
  const answer = await find(putStockImage(), CHAINS[0]!);
  if (answer.kind !== 'converted') throw new Error(JSON.stringify(answer));
  await proxies.close();
  proxies = open();
  const device = await openDevice(proxies.image(answer.chain), { cache });
  await device.close();
  await proxies.close();
  proxies = open();
  const [layer] = answer.chain.layers;
  const forged = { ...answer.chain, layers: [{ ...layer!, chunkTableDigest: digestOf('another') }] };
  await expect(openDevice(proxies.image(forged), { cache })).rejects.toMatchObject({
    code: 'ERR_IMAGE_INVALID',
  });
  const shorter = { ...answer.chain, layers: [{ ...layer!, sizeBytes: layer!.sizeBytes - 1 }] };
  await expect(openDevice(proxies.image(shorter), { cache })).rejects.toMatchObject({
    code: 'ERR_IMAGE_INVALID',
  });
});

test('tables that an image names are taken, not made', async () => {
  const image = putStockImage(() => ({ [CHUNK_TABLE_DIGEST_ANNOTATION]: digestOf('named') }));
  const answer = await find(image, CHAINS[2]!);
  expect(answer).toMatchObject({
    kind: 'converted',
    chain: { layers: BLOBS.map(() => ({ chunkTableDigest: digestOf('named') })) },
  });
  expect(relay.count('chunk-tables')).toBe(0);
});

test('a stock image whose layers cannot be had is unavailable', async () => {
  const image = putStockImage();
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.endsWith(DIFF_IDS[1]!)) return false;
    response.writeHead(404).end();
    return true;
  };
  expect(await find(image, CHAINS[0]!)).toEqual({
    kind: 'unavailable',
    reason: expect.stringContaining('404'),
  });
});

test('a stock image opens by name at a proxy, and a plain registry is told from one', async () => {
  putStockImage();
  const atProxy = { reference: `${new URL(proxy.url).host}/reg.example/lib/a:1`, waitMs: 60_000 };
  const image = await openImage(atProxy);
  expect(await bytesOfLayers(image)).toEqual({ fsType: 'ext4', blobs: DIFF_IDS });
  await image.close();
  const plain = { reference: `${new URL(upstream.url).host}/lib/a:1`, waitMs: 60_000 };
  await expect(openImage(plain)).rejects.toMatchObject({
    code: 'ERR_IMAGE_UNSUPPORTED',
    message: expect.stringMatching(/no chunk table.*--proxy/),
  });
});

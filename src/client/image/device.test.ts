import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { golden } from '../../../test/support/golden.ts';
import { type LayoutRegistry, serveLayout } from '../../../test/support/layout-registry.ts';
import { makeOverlaybdLayout } from '../../../test/support/overlaybd-layout.ts';
import type { ByteSource } from '../../format/byte-source.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import type { Descriptor } from '../../oci/manifest.ts';
import { OCI_MANIFEST } from '../../oci/media-types.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import { openDevice } from './device.ts';
import type { ConvertedImage } from './image.ts';
import { openImage } from './image-source.ts';

const LAYERS = ['layer1.zstd-16k.tar.obd', 'layer2.lz4-4k.tar.obd', 'layer3.lz4-4k.tar.obd'];
const blobs = LAYERS.map((name) => golden(`ext4/${name}`).bytes());

let directory: string;
let registry: LayoutRegistry;
let converted: Digest;
let image: ConvertedImage | null;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-device-'));
  const made = await makeOverlaybdLayout(join(directory, 'layout'), blobs);
  registry = await serveLayout(made.layout, 'lib/image');
  ({ converted } = made);
  image = null;
});

afterEach(async () => {
  await image?.close();
  await registry.close();
  rmSync(directory, { recursive: true });
});

async function openReference(reference: string): Promise<ConvertedImage> {
  image = await openImage({ reference, waitMs: 0 });
  return image;
}

const atRegistry = (tag: string) => openReference(`${registry.host}/lib/image:${tag}`);

/** Piece by piece: the device is of 1 GiB, and memory that is new takes longer to get than to hash. */
async function sha256Of(source: ByteSource): Promise<string> {
  const hash = createHash('sha256');
  const piece = Buffer.alloc(4 * 1024 * 1024);
  for (let offset = 0; offset < source.size; offset += piece.length) {
    const bytes = piece.subarray(0, source.size - offset);
    await source.read(offset, bytes);
    hash.update(bytes);
  }
  return hash.digest('hex');
}

function descriptor(digest: Digest): Descriptor {
  const artifactType = 'application/vnd.containerd.overlaybd.native.v1+json';
  return { mediaType: OCI_MANIFEST, digest, size: 1, artifactType };
}

test.each(['registry', 'layout'])(
  'the device of an image in a %s is that of the stock tools',
  async (where) => {
    const opened = await (where === 'registry'
      ? atRegistry('converted')
      : openReference(`oci:${directory}/layout:converted`));
    const device = await openDevice(opened, { cache: await ChunkCache.open(join(directory, 'cache')) });
    expect(device.fsType).toBe('ext4');
    expect(device.stats.chunksFetched > 0).toBe(where === 'registry');
    const tree = JSON.parse(
      readFileSync(new URL('../../../test/golden/ext4/tree-1-3.json', import.meta.url), 'utf8'),
    );
    expect(await sha256Of(device.device)).toBe(tree.device_sha256);
    await device.close();
  },
);

test('the converted form of an original is the referrer that its registry names', async () => {
  registry.referrers.push(descriptor(converted));
  expect((await atRegistry('original')).manifestDigest).toBe(converted);
  expect(registry.requests.some((path) => path.startsWith('/dadi/'))).toBe(false);
});

test('a referrer that is not the converted form of this image is refused', async () => {
  registry.referrers.push(descriptor(converted));
  // From here on the tag means another image.
  await makeOverlaybdLayout(join(directory, 'layout'), blobs.slice(1));
  await expect(atRegistry('original')).rejects.toMatchObject({ code: 'ERR_IMAGE_INVALID' });
});

test('an original in a layout is opened by the converted form that is there too', async () => {
  expect((await openReference(`oci:${directory}/layout:original`)).manifestDigest).toBe(converted);
});

test('a manifest, or a chunk table, with other bytes than its digest names is refused', async () => {
  registry.damage = (name, _, bytes) => {
    if (name === converted) bytes[bytes.indexOf('overlaybd')]! ^= 1;
  };
  await expect(openReference(`${registry.host}/lib/image@${converted}`)).rejects.toMatchObject({
    code: 'ERR_REGISTRY_DIGEST',
  });
  registry.damage = null;
  const opened = await atRegistry('converted');
  const tables = new Set<string>(opened.layers.map((layer) => layer.chunkTableDigest));
  registry.damage = (name, _, bytes) => {
    if (tables.has(name)) bytes[bytes.length - 1]! ^= 1;
  };
  const cache = await ChunkCache.open(join(directory, 'cache'));
  await expect(openDevice(opened, { cache })).rejects.toMatchObject({ code: 'ERR_REGISTRY_DIGEST' });
});

test('a layer whose bytes are wrong from the start is refused when it is opened', async () => {
  const opened = await atRegistry('converted');
  registry.damage = (name, _, bytes) => {
    if (name === digestOf(blobs[1]!)) bytes.fill(0);
  };
  const cache = await ChunkCache.open(join(directory, 'cache'));
  await expect(openDevice(opened, { cache })).rejects.toMatchObject({ code: 'ERR_SOURCE_CORRUPT' });
});

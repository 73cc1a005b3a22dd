import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  DOCKER_EMPTY_LAYER,
  LAYER_FORMS,
  OCI_GZIP,
  OCI_ZSTD,
  sampleTar,
} from '../../test/support/layer-forms.ts';
import { type MadeLayer, makeImage } from '../../test/support/made-image.ts';
import { digestOf } from '../oci/digest.ts';
import { type ImageManifest, parseImageConfig, parseManifest } from '../oci/manifest.ts';
import { OCI_LAYER_TAR } from '../oci/media-types.ts';
import { Catalog } from '../store/catalog.ts';
import { DirectoryBlobStore } from '../store/directory-blob-store.ts';
import { convertImage } from './image.ts';
import { DEFAULT_LIMITS } from './layer-limits.ts';
import { LayerWorkers } from './layer-workers.ts';
import { DEFAULT_PROFILE } from './profile.ts';

const directory = mkdtempSync(join(tmpdir(), 'layer-compression-'));
const workers = new LayerWorkers(2);
let store: DirectoryBlobStore;

beforeAll(async () => {
  store = await DirectoryBlobStore.open(join(directory, 'store'));
});
afterAll(async () => {
  await workers.close();
  await store.close();
  rmSync(directory, { recursive: true });
});

/** Digests of the blobs that layers are converted to, by a converter that has seen none of them before. */
async function convert(layers: readonly MadeLayer[]): Promise<string[]> {
  const made = makeImage(layers);
  const [configBytes = Buffer.alloc(0)] = made.blobs;
  for (const { bytes } of layers) writeFileSync(join(directory, digestOf(bytes)), bytes);
  const catalog = await Catalog.openSqlite(':memory:');
  try {
    const converted = await convertImage(
      {
        manifest: parseManifest(made.bytes) as ImageManifest,
        descriptor: made.descriptor,
        config: parseImageConfig(configBytes),
        layerFile: async ({ digest }) => ({ path: join(directory, digest), close: async () => {} }),
      },
      {
        store,
        catalog,
        workers,
        profile: DEFAULT_PROFILE,
        limits: DEFAULT_LIMITS,
        signal: new AbortController().signal,
      },
      () => {},
    );
    return converted.layers.map((layer) => layer.blobDigest);
  } finally {
    await catalog.close();
  }
}

const tar = sampleTar();
const formsThat = (isTaken: boolean) => LAYER_FORMS.filter(({ error }) => (error === null) === isTaken);

describe('a layer is converted to the same bytes whatever its form', () => {
  let expected: string[];
  beforeAll(async () => {
    expected = await convert([{ mediaType: OCI_LAYER_TAR, bytes: tar, diffId: digestOf(tar) }]);
  });

  test.each(formsThat(true))('$name', async ({ mediaType, pack }) => {
    const layer = { mediaType, bytes: pack(tar), diffId: digestOf(tar) };
    expect(await convert([layer])).toEqual(expected);
  });
});

describe('a layer whose form is broken is refused, and nothing of it is left', () => {
  test.each(formsThat(false))('$name', async ({ mediaType, pack, error }) => {
    const conversion = convert([{ mediaType, bytes: pack(tar), diffId: digestOf(tar) }]);
    await expect(conversion).rejects.toThrow(error ?? '');
    await expect(conversion).rejects.toMatchObject({ name: 'ConvertError' });
    expect(readdirSync(store.scratch())).toEqual([]);
  });
});

/** As gzip -l and a few runtimes see it, these have nothing in them. */
describe('a layer without entries is converted', () => {
  const nothing = Buffer.alloc(0);
  const zeros = Buffer.alloc(1024);
  const sizes: readonly (readonly [string, Buffer])[] = [
    ['no bytes', nothing],
    ['one zero block', zeros.subarray(512)],
    ['the two zero blocks of the end', zeros],
    ['20 zero blocks, as GNU tar fills up', Buffer.alloc(10_240)],
  ];
  const forms: readonly (readonly [string, string, (tar: Buffer) => Buffer])[] = [
    ['plain', OCI_LAYER_TAR, (bytes) => bytes],
    ['gzip', OCI_GZIP, (bytes) => gzipSync(bytes)],
    ['zstd', OCI_ZSTD, (bytes) => zstdCompressSync(bytes)],
    ['plain but called gzip', OCI_GZIP, (bytes) => bytes],
  ];
  const cases = sizes.flatMap(([size, bytes]) => forms.map((form) => [size, ...form, bytes] as const));

  test.each(cases)('a tar of %s, %s', async (_size, _form, mediaType, pack, bytes) => {
    const [blob] = await convert([{ mediaType, bytes: pack(bytes), diffId: digestOf(bytes) }]);
    const [same] = await convert([{ mediaType: OCI_LAYER_TAR, bytes, diffId: digestOf(bytes) }]);
    expect(blob).toBe(same);
  });

  test('the one that Docker puts for instructions that change no file, between others', async () => {
    expect(createHash('sha256').update(DOCKER_EMPTY_LAYER).digest('hex')).toMatch(/^a3ed95ca/);
    const empty = {
      mediaType: OCI_GZIP,
      bytes: DOCKER_EMPTY_LAYER,
      diffId: digestOf(gunzipSync(DOCKER_EMPTY_LAYER)),
    };
    const full = { mediaType: OCI_LAYER_TAR, bytes: tar, diffId: digestOf(tar) };
    expect(await convert([empty, full, empty, empty])).toHaveLength(4);
  });
});

test('a tar without the zero blocks of its end is converted', async () => {
  const bytes = tar.subarray(0, tar.length - 1024);
  expect(await convert([{ mediaType: OCI_LAYER_TAR, bytes, diffId: digestOf(bytes) }])).toHaveLength(1);
});

test('an error names the layer’s true digest and the one that the config names', async () => {
  const lie = digestOf('a lie');
  const layer = { mediaType: OCI_GZIP, bytes: gzipSync(tar), diffId: lie };
  await expect(convert([layer])).rejects.toMatchObject({
    code: 'ERR_CONVERT_DIFF_ID',
    message: expect.stringMatching(new RegExp(`${digestOf(tar)}.*${lie}`)),
  });
});

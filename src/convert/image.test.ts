import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { type Header, pack } from 'tar-stream';
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest';
import { decodeChunkTable, verifyChunk } from '../format/chunk-table.ts';
import { ErofsReader } from '../format/erofs-reader.ts';
import { LsmtLayer } from '../format/lsmt-layer.ts';
import { MergedDevice } from '../format/merged-device.ts';
import { openLayerBlob } from '../format/overlaybd-tar.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { encodeJson, type ImageManifest, parseImageConfig, parseManifest } from '../oci/manifest.ts';
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from '../oci/media-types.ts';
import type { LocalFile } from '../store/blob-store.ts';
import { Catalog } from '../store/catalog.ts';
import { DirectoryBlobStore } from '../store/directory-blob-store.ts';
import { type ConversionContext, convertImage, type ImageToConvert } from './image.ts';
import { DEFAULT_LIMITS } from './layer-limits.ts';
import { LayerWorkers } from './layer-workers.ts';
import { DEFAULT_PROFILE } from './profile.ts';

type Member = readonly [header: Partial<Header> & Pick<Header, 'name'>, content?: string];

let directory: string;
let store: DirectoryBlobStore;
let catalog: Catalog;

const workers = new LayerWorkers(2);
afterAll(() => workers.close());

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'convert-image-'));
  store = await DirectoryBlobStore.open(join(directory, 'store'));
  catalog = await Catalog.openSqlite(':memory:');
});

afterEach(async () => {
  await catalog.close();
  await store.close();
  rmSync(directory, { recursive: true, force: true });
});

const BASE: Member[] = [
  [{ name: 'etc/', type: 'directory', mode: 0o755 }],
  [{ name: 'etc/motd', mode: 0o644 }, 'hello'],
  [{ name: 'etc/gone' }, 'x'],
];
const TOP: Member[] = [[{ name: 'etc/.wh.gone' }], [{ name: 'etc/new' }, 'n'.repeat(10_000)]];

async function tarOf(members: readonly Member[]): Promise<Buffer> {
  const archive = pack();
  for (const [header, content] of members) archive.entry({ ...header, mtime: new Date(0) }, content ?? '');
  archive.finalize();
  return await buffer(archive);
}

/** An image of gzip layers whose files stand in the test's directory. */
async function image(layers: readonly (readonly Member[])[], change: { diffIds?: Digest[] } = {}) {
  const tars = await Promise.all(layers.map(tarOf));
  const blobs = tars.map((tar) => gzipSync(tar));
  for (const blob of blobs) writeFileSync(join(directory, digestOf(blob).slice(7)), blob);
  const diffIds = change.diffIds ?? tars.map((tar) => digestOf(tar));
  const config = encodeJson({
    os: 'linux',
    architecture: 'amd64',
    rootfs: { type: 'layers', diff_ids: diffIds },
  });
  const bytes = encodeJson({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: OCI_CONFIG, digest: digestOf(config), size: config.length },
    layers: blobs.map((blob) => ({
      mediaType: `${OCI_LAYER_TAR}+gzip`,
      digest: digestOf(blob),
      size: blob.length,
    })),
  });
  const files: string[] = [];
  return {
    files,
    manifest: parseManifest(bytes) as ImageManifest,
    descriptor: { mediaType: OCI_MANIFEST, digest: digestOf(bytes), size: bytes.length },
    config: parseImageConfig(config),
    layerFile: async ({ digest }: { digest: Digest }) => {
      files.push(digest);
      return notHeld(join(directory, digest.slice(7)));
    },
  };
}

function notHeld(path: string): LocalFile {
  return { path, close: async () => {} };
}

function convert(what: ImageToConvert, change: Partial<ConversionContext> = {}) {
  const signal = new AbortController().signal;
  return convertImage(
    what,
    { store, catalog, profile: DEFAULT_PROFILE, limits: DEFAULT_LIMITS, workers, signal, ...change },
    () => {},
  );
}

async function pathsIn(blobs: readonly Digest[]): Promise<string[]> {
  const sources = await Promise.all(blobs.map(async (digest) => (await store.open(digest))!));
  try {
    const layers = await Promise.all(
      sources.map(async (source) => LsmtLayer.open(await openLayerBlob(source))),
    );
    const paths: string[] = [];
    for await (const { path } of (await ErofsReader.open(MergedDevice.open(layers))).walk()) paths.push(path);
    return paths.sort();
  } finally {
    await Promise.all(sources.map((source) => source.close()));
  }
}

test('the converted layers, stacked, hold what the originals do', async () => {
  const { layers } = await convert(await image([BASE, TOP]));
  expect(await pathsIn([layers[0]!.blobDigest])).toEqual(['', 'etc', 'etc/gone', 'etc/motd']);
  expect(await pathsIn(layers.map((layer) => layer.blobDigest))).toEqual(['', 'etc', 'etc/motd', 'etc/new']);
});

test('manifest, layers and config are an overlaybd image that refers to the original', async () => {
  const original = await image([BASE, TOP]);
  const { manifest, config, layers } = await convert(original);
  const parsed = parseManifest(manifest.bytes) as ImageManifest;
  expect(parsed.artifactType).toBe('application/vnd.containerd.overlaybd.native.v1+json');
  expect(parsed.subject).toEqual(original.descriptor);
  for (const [index, { digest, size, mediaType, annotations }] of parsed.layers.entries()) {
    expect(mediaType).toBe('application/vnd.oci.image.layer.v1.tar');
    expect(await store.stat(digest)).toEqual({ sizeBytes: size });
    expect(annotations).toMatchObject({
      'containerd.io/snapshot/overlaybd/version': '0.1.0',
      'containerd.io/snapshot/overlaybd/blob-digest': digest,
      'containerd.io/snapshot/overlaybd/blob-size': String(size),
      'org.dadi-mirror.chunk-table.digest': layers[index]!.chunkTableDigest,
    });
  }
  expect(parseImageConfig(config.bytes).rootfs.diff_ids).toEqual(parsed.layers.map((layer) => layer.digest));
  expect(parsed.config.digest).toBe(digestOf(config.bytes));
});

test('the chunk table describes the blob', async () => {
  const { layers } = await convert(await image([BASE]));
  const [{ blobDigest, chunkTableDigest, blobSizeBytes }] = [layers[0]!];
  const read = async (digest: Digest) => {
    const source = (await store.open(digest))!;
    const bytes = Buffer.alloc(source.size);
    await source.read(0, bytes);
    await source.close();
    return bytes;
  };
  const table = decodeChunkTable(await read(chunkTableDigest));
  expect(table.blobSize).toBe(blobSizeBytes);
  const blob = await read(blobDigest);
  expect(`sha256:${createHash('sha256').update(blob).digest('hex')}`).toBe(blobDigest);
  expect(verifyChunk(table, 0, blob.subarray(0, table.chunkSize))).toBe(true);
});

test('the same image gives the same digests again, whatever the order in which layers finish', async () => {
  const what = [BASE, TOP, TOP, BASE];
  const first = await convert(await image(what));
  const one = new LayerWorkers(1);
  const again = await convert(await image(what), {
    workers: one,
    catalog: await Catalog.openSqlite(':memory:'),
  });
  await one.close();
  expect(again.manifest.descriptor).toEqual(first.manifest.descriptor);
});

test('a base that another image has is not converted again', async () => {
  const base = await convert(await image([BASE]));
  const larger = await image([BASE, TOP]);
  const { layers } = await convert(larger);
  expect(layers[0]).toEqual(base.layers[0]);
  expect(larger.files).toEqual([larger.manifest.layers[1]!.digest]);
});

test('what was finished when a conversion ended early is not converted again after a restart', async () => {
  const path = join(directory, 'catalog.db');
  const what = await image([BASE, TOP]);
  const [base, top] = what.manifest.layers.map((layer) => layer.digest);
  const before = await Catalog.openSqlite(path);
  const finished = vi.spyOn(before, 'putLayer');
  const breaking = {
    ...what,
    layerFile: async (layer: { digest: Digest }) => {
      if (layer.digest === base) return what.layerFile(layer);
      await vi.waitFor(() => expect(finished).toHaveBeenCalled(), 30_000);
      throw new Error('the power is gone');
    },
  };
  await expect(convert(breaking, { catalog: before })).rejects.toThrow('the power is gone');
  await before.close();
  await store.close();
  store = await DirectoryBlobStore.open(join(directory, 'store'));

  const after = await Catalog.openSqlite(path);
  const again = await image([BASE, TOP]);
  const { layers } = await convert(again, { catalog: after });
  expect(again.files).toEqual([top]);
  expect(await pathsIn(layers.map((layer) => layer.blobDigest))).toEqual(['', 'etc', 'etc/motd', 'etc/new']);
  await after.close();
});

test('a base whose blob was lost is converted again', async () => {
  const base = await convert(await image([BASE]));
  await store.remove(base.layers[0]!.blobDigest);
  const { layers } = await convert(await image([BASE, TOP]));
  expect(layers[0]).toEqual(base.layers[0]);
  expect(await store.stat(base.layers[0]!.blobDigest)).not.toBeNull();
});

test('a config that lies about a layer fails the image, and leaves nothing behind', async () => {
  const lying = await image([BASE, TOP], { diffIds: [digestOf(await tarOf(BASE)), digestOf('a lie')] });
  await expect(convert(lying)).rejects.toMatchObject({ code: 'ERR_CONVERT_DIFF_ID' });
  expect(readdirSync(store.scratch())).toEqual([]);
});

test('a layer below that was removed while the image was converted is a failure of the store, not of the image', async () => {
  vi.spyOn(store, 'localFile').mockResolvedValue(null);
  await expect(convert(await image([BASE, TOP]))).rejects.toMatchObject({ code: 'ERR_STORE_IO' });
});

test('what a conversion needs is held until it is over, and let go however it ends', async () => {
  const base = (await convert(await image([BASE]))).layers[0]!;
  const blobs = [base.blobDigest, base.chunkTableDigest];
  const removed = () => Promise.all(blobs.map((digest) => store.remove(digest)));
  let open = 0;
  const holding = async (change: { diffIds?: Digest[] }, afterwards: () => void) => {
    const what = await image([BASE, TOP], change);
    return {
      ...what,
      layerFile: async (layer: { digest: Digest }) => {
        open++;
        expect(await removed()).toEqual([false, false]);
        afterwards();
        return { ...(await what.layerFile(layer)), close: async () => void open-- };
      },
    };
  };
  const stop = new AbortController();
  const lie = { diffIds: [digestOf(await tarOf(BASE)), digestOf('a lie')] };
  await expect(convert(await holding(lie, () => {}))).rejects.toMatchObject({ code: 'ERR_CONVERT_DIFF_ID' });
  const aborted = await holding({}, () => stop.abort(new Error('enough')));
  await expect(convert(aborted, { signal: stop.signal })).rejects.toThrow('enough');
  await convert(await holding({}, () => {}));
  expect(open).toBe(0);
  expect(await removed()).toEqual([true, true]);
});

test('a layer whose file was damaged fails the image, and the file is dropped', async () => {
  const what = await image([BASE]);
  const path = join(directory, 'damaged');
  writeFileSync(path, Buffer.alloc(1000));
  const dropped: Digest[] = [];
  const dropLayer = async ({ digest }: { digest: Digest }) => void dropped.push(digest);
  const failing = convert({ ...what, layerFile: async () => notHeld(path), dropLayer });
  await expect(failing).rejects.toMatchObject({ code: 'ERR_CONVERT_LAYER_DIGEST' });
  expect(dropped).toEqual([what.manifest.layers[0]!.digest]);
});

test('a layer that cannot be had fails the image, and the layers above it do not wait for ever', async () => {
  const broken = await image([BASE, TOP, TOP]);
  const missing = { ...broken, layerFile: () => Promise.reject(new Error('upstream is gone')) };
  await expect(convert(missing)).rejects.toThrow('upstream is gone');
  expect(readdirSync(store.scratch())).toEqual([]);
});

test('an abort ends the conversion with its reason and leaves nothing behind', async () => {
  const controller = new AbortController();
  const slow = await image([BASE, TOP]);
  const aborting = {
    ...slow,
    layerFile: async (layer: { digest: Digest }) => {
      // While the first layer is being converted, however fast that goes.
      if (slow.files.length === 1) controller.abort(new Error('enough'));
      return slow.layerFile(layer);
    },
  };
  await expect(convert(aborting, { signal: controller.signal })).rejects.toThrow('enough');
  expect(readdirSync(store.scratch())).toEqual([]);
});

test('layers that unpack to too much together are refused, also those that were converted before', async () => {
  const both = await image([BASE, TOP]);
  const limits = { ...DEFAULT_LIMITS, imageBytes: 10_000 };
  const refusal = expect.objectContaining({
    code: 'ERR_LIMIT',
    message: expect.stringMatching(/imageBytes/),
  });
  await expect(convert(both, { limits })).rejects.toThrow(refusal);
  expect(readdirSync(store.scratch())).toEqual([]);
  await convert(both);
  await expect(convert(both, { limits })).rejects.toThrow(refusal);
  const one = { ...DEFAULT_LIMITS, imageLayers: 1 };
  await expect(convert(both, { limits: one })).rejects.toMatchObject({ code: 'ERR_LIMIT' });
});

test('an image without layers is refused: there is nothing to mount', async () => {
  await expect(convert(await image([]))).rejects.toMatchObject({ code: 'ERR_CONVERT_UNSUPPORTED' });
});

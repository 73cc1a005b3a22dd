import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { convertImage } from '../../src/convert/image.ts';
import { type ConversionLimits, DEFAULT_LIMITS } from '../../src/convert/layer-limits.ts';
import { LayerWorkers } from '../../src/convert/layer-workers.ts';
import { DEFAULT_PROFILE } from '../../src/convert/profile.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { type ImageManifest, parseImageConfig, parseManifest } from '../../src/oci/manifest.ts';
import type { LocalFile } from '../../src/store/blob-store.ts';
import { Catalog } from '../../src/store/catalog.ts';
import { DirectoryBlobStore } from '../../src/store/directory-blob-store.ts';
import { type MadeLayer, makeImage } from './made-image.ts';

/** Converts layers in this process, many images one after the other. */
export class LayerConverter {
  readonly #directory: string;
  readonly #store: DirectoryBlobStore;
  readonly #catalog: Catalog;
  readonly #workers = new LayerWorkers(2);
  readonly #files: LocalFile[] = [];

  private constructor(directory: string, store: DirectoryBlobStore, catalog: Catalog) {
    this.#directory = directory;
    this.#store = store;
    this.#catalog = catalog;
  }

  static async open(directory: string): Promise<LayerConverter> {
    const store = await DirectoryBlobStore.open(directory);
    return new LayerConverter(directory, store, await Catalog.openSqlite(':memory:'));
  }

  /** Converts an image of these layers, the lowest first, and gives the paths of their blobs, good until it is closed. */
  async convert(layers: readonly MadeLayer[], limits: ConversionLimits = DEFAULT_LIMITS): Promise<string[]> {
    const { bytes, descriptor, blobs } = makeImage(layers);
    const [configBytes] = blobs;
    if (configBytes === undefined) throw new TypeError('an image without a config');
    const image = {
      manifest: parseManifest(bytes) as ImageManifest,
      descriptor,
      config: parseImageConfig(configBytes),
      layerFile: async ({ digest }: { digest: string }) => {
        const blob = blobs.find((candidate) => digestOf(candidate) === digest);
        const path = join(this.#directory, digest.replace(':', '-'));
        writeFileSync(path, blob ?? '');
        return { path, close: async () => {} };
      },
    };
    const context = {
      store: this.#store,
      catalog: this.#catalog,
      profile: DEFAULT_PROFILE,
      limits,
      workers: this.#workers,
      signal: new AbortController().signal,
    };
    const converted = await convertImage(image, context, () => {});
    return Promise.all(
      converted.layers.map(async ({ blobDigest }) => {
        const file = await this.#store.localFile(blobDigest);
        if (file === null) throw new Error(`${blobDigest} is not in the store`);
        this.#files.push(file);
        return file.path;
      }),
    );
  }

  async close(): Promise<void> {
    await this.#workers.close();
    for (const file of this.#files) await file.close();
    await this.#catalog.close();
    await this.#store.close();
    rmSync(this.#directory, { recursive: true });
  }
}

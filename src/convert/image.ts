import { randomUUID } from 'node:crypto';
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDigest } from '../oci/digest.ts';
import type { Descriptor, ImageConfig, ImageManifest } from '../oci/manifest.ts';
import type { BlobStore } from '../store/blob-store.ts';
import type { Catalog, ConvertedLayerRecord } from '../store/catalog.ts';
import type { ConversionProgress } from '../store/conversion-table.ts';
import { StoreError } from '../store/errors.ts';
import { assembleConfig, assembleManifest, type Document } from './assemble.ts';
import { checkSize } from './declared-size.ts';
import { ConvertError } from './errors.ts';
import { type PlannedLayer, planLayers } from './image-plan.ts';
import { type ConversionLimits, ImageLimits } from './layer-limits.ts';
import type { LayerWorkers } from './layer-workers.ts';
import { type ConversionProfile, profileId } from './profile.ts';

export interface ConversionContext {
  readonly store: BlobStore;
  /** Remembers converted layers by chain ID and profile, so that images share those of a common base. */
  readonly catalog: Pick<Catalog, 'layer' | 'putLayer'>;
  readonly profile: ConversionProfile;
  readonly limits: ConversionLimits;
  readonly workers: LayerWorkers;
  readonly signal: AbortSignal;
}

export interface ImageToConvert {
  readonly manifest: ImageManifest;
  readonly descriptor: Descriptor;
  readonly config: ImageConfig;
  /** Where the bytes of a layer are on this machine. Called once for each layer converted. */
  readonly layerFile: (layer: Descriptor, signal: AbortSignal) => Promise<string>;
  /** Removes that file when it turned out to hold other bytes, if it is ours: the next attempt gets it anew. */
  readonly dropLayer?: (layer: Descriptor) => Promise<void>;
}

export interface ConvertedImage {
  /** The converted manifest, in the store like its config, layers and chunk tables. */
  readonly manifest: Document;
  readonly config: Document;
  readonly layers: readonly ConvertedLayerRecord[];
}

/**
 * Converts an image: its layers in parallel as far as they do not depend on each other, then config and
 * manifest. All that it makes is in the store when it resolves. Rejects with ConvertError, FormatError's code
 * in a ConvertError, StoreError, or the signal's reason; temporary files are gone then.
 */
export async function convertImage(
  image: ImageToConvert,
  context: ConversionContext,
  onProgress: (progress: ConversionProgress) => void,
): Promise<ConvertedImage> {
  const plan = planLayers(image.manifest, image.config);
  const layers = await convertLayers(plan, image, context, onProgress);
  const config = assembleConfig(image.config, layers);
  const manifest = assembleManifest(image.descriptor, config, layers, context.profile);
  await context.store.put(config.bytes);
  await context.store.put(manifest.bytes);
  return { manifest, config, layers };
}

async function convertLayers(
  plan: readonly PlannedLayer[],
  { layerFile, dropLayer }: Pick<ImageToConvert, 'layerFile' | 'dropLayer'>,
  context: ConversionContext,
  onProgress: (progress: ConversionProgress) => void,
): Promise<ConvertedLayerRecord[]> {
  const imageLimits = new ImageLimits(context.limits, plan.length);
  const failure = new AbortController();
  const signal = AbortSignal.any([context.signal, failure.signal]);
  const progress = new ProgressSum(plan, onProgress);
  const scratch = join(context.store.scratch(), `convert-${randomUUID()}`);
  await mkdir(scratch);
  const running: Promise<ConvertedLayerRecord>[] = [];
  try {
    for (const [index, layer] of plan.entries()) {
      const below = running.slice();
      const task = context.workers.turn(async () => {
        const known = await knownLayer(layer, context);
        const record = known ?? (await convertOne(layer, index, below));
        imageLimits.layer(record.tarSizeBytes, layer.descriptor.size);
        progress.finish(index);
        return record;
      });
      // The first failure ends the others; each is awaited below.
      task.catch((error: unknown) => failure.abort(error));
      running.push(task);
    }
    return await Promise.all(running);
  } finally {
    await Promise.allSettled(running);
    await rm(scratch, { recursive: true, force: true });
  }

  async function convertOne(
    layer: PlannedLayer,
    index: number,
    below: readonly Promise<ConvertedLayerRecord>[],
  ): Promise<ConvertedLayerRecord> {
    signal.throwIfAborted();
    const { chainId, parentChainId, diffId, descriptor } = layer;
    const { profile, limits, store, catalog } = context;
    const layerPath = await layerFile(descriptor, signal);
    const outputPath = join(scratch, `${index}.dadi`);
    const conversion = context.workers.convert(
      { layerPath, digest: descriptor.digest, diffId, chainId, parentChainId, profile, limits, outputPath },
      async () => Promise.all((await Promise.all(below)).map((parent) => blobPath(parent, store))),
      { compressedBytes: descriptor.size, signal, onProgress: (bytes) => progress.advance(index, bytes) },
    );
    const result = await conversion.catch(async (error: unknown) => {
      const isDamaged = error instanceof ConvertError && error.code === 'ERR_CONVERT_LAYER_DIGEST';
      if (isDamaged) await dropLayer?.(descriptor);
      throw error;
    });
    // Only now: a file that was damaged has another size too.
    checkSize('layer', descriptor, (await stat(layerPath)).size);
    const blobDigest = parseDigest(result.blobDigest);
    const chunkTableDigest = await store.put(Buffer.from(result.chunkTable));
    await store.adopt(outputPath, blobDigest);
    const { blobSizeBytes, tarSizeBytes } = result;
    const record = {
      chainId,
      profile: profileId(profile),
      blobDigest,
      blobSizeBytes,
      chunkTableDigest,
      tarSizeBytes,
    };
    catalog.putLayer(record);
    return record;
  }
}

/** What an earlier conversion left for this chain, if its blobs are still there. */
async function knownLayer(
  { chainId }: PlannedLayer,
  { catalog, store, profile }: ConversionContext,
): Promise<ConvertedLayerRecord | null> {
  const record = catalog.layer(chainId, profileId(profile));
  if (record === null) return null;
  const there = await Promise.all([store.stat(record.blobDigest), store.stat(record.chunkTableDigest)]);
  return there.includes(null) ? null : record;
}

async function blobPath(layer: ConvertedLayerRecord, store: BlobStore): Promise<string> {
  const path = await store.localPath(layer.blobDigest);
  if (path === null) {
    // Not a defect of the image: the next attempt makes it again.
    throw new StoreError('ERR_STORE_IO', `the converted layer ${layer.blobDigest} is gone from the store`);
  }
  return path;
}

class ProgressSum {
  readonly #sizes: readonly number[];
  readonly #done: number[];
  readonly #onProgress: (progress: ConversionProgress) => void;
  #layersDone = 0;

  constructor(plan: readonly PlannedLayer[], onProgress: (progress: ConversionProgress) => void) {
    this.#sizes = plan.map((layer) => layer.descriptor.size);
    this.#done = plan.map(() => 0);
    this.#onProgress = onProgress;
  }

  advance(index: number, bytes: number): void {
    this.#done[index] = bytes;
    this.#report();
  }

  finish(index: number): void {
    this.#done[index] = this.#sizes[index] ?? 0;
    this.#layersDone++;
    this.#report();
  }

  #report(): void {
    const sum = (sizes: readonly number[]) => sizes.reduce((total, size) => total + size, 0);
    this.#onProgress({
      layersDone: this.#layersDone,
      layersTotal: this.#sizes.length,
      bytesDone: sum(this.#done),
      bytesTotal: sum(this.#sizes),
    });
  }
}

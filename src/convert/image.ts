import { randomUUID } from 'node:crypto';
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Digest, parseDigest } from '../oci/digest.ts';
import type { Descriptor, ImageConfig, ImageManifest } from '../oci/manifest.ts';
import type { BlobStore, LocalFile } from '../store/blob-store.ts';
import type { Catalog, ConvertedLayerRecord } from '../store/catalog.ts';
import type { ConversionProgress } from '../store/conversion-table.ts';
import { StoreError } from '../store/errors.ts';
import { assembleConfig, assembleManifest, type Document } from './assemble.ts';
import { checkSize } from './declared-size.ts';
import { ConvertError } from './errors.ts';
import { HeldBlobs } from './held-blobs.ts';
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
  /** Where others may convert the same chains at the same time. */
  readonly chains?: ChainGuard;
  /** Of the image among those that are converted at the same time: the greater one goes first. May change. */
  readonly priority?: () => number;
  readonly signal: AbortSignal;
}

/** Sees to it that a chain is converted by one at a time. */
export interface ChainGuard {
  /**
   * What `known` finds, which is asked again after somebody else was at the chain; else what `work` makes while nobody
   * else is at it. Its signal fires with `signal`, or when that can no longer be made sure: then it is tried again.
   */
  once<T>(
    chainId: Digest,
    known: () => Promise<T | null>,
    work: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T>;
}

const ALONE: ChainGuard = {
  once: async (_chainId, known, work, signal) => (await known()) ?? (await work(signal)),
};

export interface ImageToConvert {
  readonly manifest: ImageManifest;
  readonly descriptor: Descriptor;
  readonly config: ImageConfig;
  /**
   * Where the bytes of a layer are on this machine. Called when a layer is converted; closed when that is over.
   */
  readonly layerFile: (layer: Descriptor, signal: AbortSignal) => Promise<LocalFile>;
  /** Removes that file when it turned out to hold other bytes, if it is ours: the next attempt gets it anew. */
  readonly dropLayer?: (layer: Descriptor) => Promise<unknown>;
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
  // A manifest is not to name what was removed before it was there.
  const held = new HeldBlobs();
  try {
    const layers = await convertLayers(plan, image, context, held, onProgress);
    const config = assembleConfig(image.config, layers);
    const manifest = assembleManifest(image.descriptor, config, layers, context.profile);
    await context.store.put(config.bytes);
    await context.store.put(manifest.bytes);
    return { manifest, config, layers };
  } finally {
    await held.close();
  }
}

async function convertLayers(
  plan: readonly PlannedLayer[],
  { layerFile, dropLayer }: Pick<ImageToConvert, 'layerFile' | 'dropLayer'>,
  context: ConversionContext,
  held: HeldBlobs,
  onProgress: (progress: ConversionProgress) => void,
): Promise<ConvertedLayerRecord[]> {
  const imageLimits = new ImageLimits(context.limits, plan.length);
  const failure = new AbortController();
  const signal = AbortSignal.any([context.signal, failure.signal]);
  const progress = new ProgressSum(plan, onProgress);
  const scratch = join(context.store.scratch(), `convert-${randomUUID()}`);
  await mkdir(scratch);
  const running: Promise<ConvertedLayerRecord>[] = [];
  const turns = context.workers.image(context.priority ?? (() => 0));
  const chains = context.chains ?? ALONE;
  try {
    for (const [index, layer] of plan.entries()) {
      const below = running.slice();
      const known = () => knownLayer(layer, context, held);
      const work = (signal: AbortSignal) => convertOne(layer, index, below, signal);
      const task = turns.run(async () => {
        const record = await chains.once(layer.chainId, known, work, signal);
        imageLimits.layer(record.tarSizeBytes, layer.descriptor.size);
        progress.finish(index);
        return record;
      }, signal);
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
    signal: AbortSignal,
  ): Promise<ConvertedLayerRecord> {
    signal.throwIfAborted();
    const { chainId, parentChainId, diffId, descriptor } = layer;
    const { profile, limits, store, catalog } = context;
    const outputPath = join(scratch, `${index}-${randomUUID()}.dadi`);
    const result = await withFiles(async (files) => {
      const { path: layerPath } = await files.add(layerFile(descriptor, signal));
      const result = await context.workers.convert(
        { layerPath, digest: descriptor.digest, diffId, chainId, parentChainId, profile, limits, outputPath },
        async () => Promise.all((await Promise.all(below)).map((parent) => blobPath(parent, store, files))),
        { compressedBytes: descriptor.size, signal, onProgress: (bytes) => progress.advance(index, bytes) },
      );
      // Only now: a file that was damaged has another size too.
      checkSize('layer', descriptor, (await stat(layerPath)).size);
      return result;
    }).catch(async (error: unknown) => {
      const isDamaged = error instanceof ConvertError && error.code === 'ERR_CONVERT_LAYER_DIGEST';
      if (isDamaged) await dropLayer?.(descriptor);
      throw error;
    });
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
    if (!(await holdLayer(record, store, held))) throw isGone(record);
    await catalog.putLayer(record);
    return record;
  }
}

/** What an earlier conversion left for this chain, if its blobs are still there. */
async function knownLayer(
  { chainId }: PlannedLayer,
  { catalog, store, profile }: ConversionContext,
  held: HeldBlobs,
): Promise<ConvertedLayerRecord | null> {
  const record = await catalog.layer(chainId, profileId(profile));
  return record !== null && (await holdLayer(record, store, held)) ? record : null;
}

/** Whether all of a converted layer is there, and stays. */
async function holdLayer(
  { blobDigest, chunkTableDigest }: ConvertedLayerRecord,
  store: BlobStore,
  held: HeldBlobs,
): Promise<boolean> {
  const both = [blobDigest, chunkTableDigest].map((digest) => held.add(store.hold(digest)));
  return !(await Promise.all(both)).includes(null);
}

/** Runs `work` with files that are let go when it is over, however it ends. */
async function withFiles<T>(work: (files: HeldBlobs) => Promise<T>): Promise<T> {
  const files = new HeldBlobs();
  try {
    return await work(files);
  } finally {
    await files.close();
  }
}

async function blobPath(layer: ConvertedLayerRecord, store: BlobStore, files: HeldBlobs): Promise<string> {
  const file = await files.add(store.localFile(layer.blobDigest));
  if (file === null) throw isGone(layer);
  return file.path;
}

/** Not a defect of the image: the next attempt makes it again. */
function isGone({ blobDigest }: ConvertedLayerRecord): StoreError {
  return new StoreError('ERR_STORE_IO', `the converted layer ${blobDigest} is gone from the store`);
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

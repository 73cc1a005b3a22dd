import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import process from 'node:process';
import { Command, InvalidArgumentError, Option } from 'commander';
import { withinLimits } from '../convert/conversion-guard.ts';
import { checkConfigSize, checkSize } from '../convert/declared-size.ts';
import { ConvertError } from '../convert/errors.ts';
import { type ConvertedImage, convertImage } from '../convert/image.ts';
import { convertIndex, imagesOf } from '../convert/image-index.ts';
import { whyLeftAsItIs } from '../convert/image-plan.ts';
import { type ConversionLimits, check, DEFAULT_LIMITS } from '../convert/layer-limits.ts';
import { LayerWorkers } from '../convert/layer-workers.ts';
import { type ConversionProfile, DEFAULT_PROFILE } from '../convert/profile.ts';
import type { Algorithm } from '../format/block-codec.ts';
import { WRITABLE_BLOCK_SIZES } from '../format/zfile-writer.ts';
import type { Digest } from '../oci/digest.ts';
import { ImageLayout } from '../oci/image-layout.ts';
import { type LayoutReference, parseLayoutReference } from '../oci/layout-reference.ts';
import { type Descriptor, type ImageConfig, type ImageManifest, parseImageConfig } from '../oci/manifest.ts';
import { layerFormat } from '../oci/media-types.ts';
import { formatPlatform } from '../oci/platform.ts';
import type { BlobStore, LocalFile } from '../store/blob-store.ts';
import { Catalog } from '../store/catalog.ts';
import { DirectoryBlobStore } from '../store/directory-blob-store.ts';
import {
  entriesOf,
  type FoundManifest,
  IMAGE_ARGUMENT,
  type ImageOrigin,
  openImage,
} from './image-origin.ts';
import { interruptSignal } from './interrupt.ts';
import { type LimitFlags, limitOption, limitsHelp } from './limits.ts';
import { formatBytes, formatFields, formatTable, ProgressLine, printJson } from './output.ts';

interface ConvertFlags {
  readonly algorithm: Algorithm;
  readonly level: number;
  readonly blockSize: string;
  readonly concurrency: number;
  readonly limit?: LimitFlags;
  readonly platform?: string;
  readonly plainHttp: boolean;
  readonly json: boolean;
}

/** `dadi convert SOURCE DESTINATION` */
export function convertCommand(): Command {
  return new Command('convert')
    .description('Convert an image to overlaybd (DADI) form, into an OCI image layout')
    .argument('<source>', IMAGE_ARGUMENT)
    .argument('<destination>', 'oci:DIRECTORY[:TAG], created if it is not there', layoutArgument)
    .addOption(
      new Option('--algorithm <name>', 'how blocks are compressed')
        .choices(['lz4', 'zstd'])
        .default(DEFAULT_PROFILE.algorithm),
    )
    .option('--level <n>', 'compression level of zstd', wholeNumber(1, 22), DEFAULT_PROFILE.level)
    .addOption(
      new Option('--block-size <bytes>', 'bytes compressed together')
        .choices(WRITABLE_BLOCK_SIZES.map(String))
        .default(String(DEFAULT_PROFILE.blockSize)),
    )
    .option('--concurrency <n>', 'layers converted at once', wholeNumber(1, 256), availableParallelism())
    .addOption(limitOption())
    .option('--platform <os/arch>', 'of an index, convert only this image')
    .option('--plain-http', 'speak http to the registry', false)
    .option('--json', 'print the result as JSON', false)
    .addHelpText('after', limitsHelp())
    .action(convert);
}

async function convert(source: string, destination: LayoutReference, flags: ConvertFlags): Promise<void> {
  const signal = interruptSignal();
  const startMs = performance.now();
  const progress = new ProgressLine({ quiet: flags.json });
  const origin = await openImage(source, { plainHttp: flags.plainHttp, signal });
  try {
    const result = await convertInto(destination, { origin, flags, signal, progress });
    progress.clear();
    printResult(result, flags.json, performance.now() - startMs);
  } finally {
    progress.clear();
    await origin.close();
  }
}

async function convertInto(
  destination: LayoutReference,
  job: Omit<Job, 'store' | 'catalog' | 'workers'>,
): Promise<ConvertResult> {
  const directory = resolve(destination.directory);
  await mkdir(dirname(directory), { recursive: true });
  // Beside the layout, so that finished blobs are linked into it and never copied.
  const work = await mkdtemp(join(dirname(directory), '.dadi-convert-'));
  const store = await DirectoryBlobStore.open(work);
  const catalog = await Catalog.openSqlite(':memory:');
  const workers = new LayerWorkers(job.flags.concurrency);
  try {
    const { images, index, others } = await convertAll({ ...job, store, catalog, workers });
    const layout = await ImageLayout.create(directory);
    for (const { original } of others) await copyManifest(original, job, store, layout);
    for (const { image } of images) await exportImage(image, store, layout);
    if (index !== null) await exportBlob(index, store, layout);
    const root = index ?? images[0]!.image.manifest.descriptor;
    await layout.tag(destination.tag ?? 'latest', root);
    return { root, images, others };
  } finally {
    await workers.close();
    await catalog.close();
    await store.close();
    await rm(work, { recursive: true, force: true });
  }
}

interface Job {
  readonly origin: ImageOrigin;
  readonly store: BlobStore;
  readonly catalog: Catalog;
  readonly workers: LayerWorkers;
  readonly flags: ConvertFlags;
  readonly signal: AbortSignal;
  readonly progress: ProgressLine;
}

interface ConvertedOne {
  readonly platform: string;
  readonly original: FoundManifest;
  readonly image: ConvertedImage;
}

/** What an index lists beside images that can be converted: it stays as it was. */
interface LeftAlone {
  readonly original: FoundManifest;
  readonly reason: string;
}

interface ConvertedAll {
  readonly images: readonly ConvertedOne[];
  /** The converted index; null where one image was asked for. */
  readonly index: Descriptor | null;
  readonly others: readonly LeftAlone[];
}

interface ConvertResult extends Omit<ConvertedAll, 'index'> {
  /** What the tag names. */
  readonly root: Descriptor;
}

async function convertAll(job: Job): Promise<ConvertedAll> {
  const { origin, flags, signal } = job;
  const { root } = origin;
  const images: ConvertedOne[] = [];
  const others: LeftAlone[] = [];
  const platforms: string[] = [];
  if (root.manifest.kind === 'index') {
    check(limitsOf(flags), 'indexImages', imagesOf(root.manifest).length, 'the index lists', 'images');
  }
  for (const found of await entriesOf(origin, signal)) {
    if (found.manifest.kind !== 'image') {
      const { manifest } = found;
      const reason = manifest.kind === 'index' ? 'it is an index within the index' : whyLeftAsItIs(manifest);
      others.push({ original: found, reason: reason ?? '' });
      continue;
    }
    const config = await readConfig(found.manifest, job);
    const platform = formatPlatform(config);
    platforms.push(platform);
    if (flags.platform !== undefined && flags.platform !== platform) continue;
    try {
      images.push({ platform, original: found, image: await convertOne(found, config, job) });
    } catch (error) {
      const isOneOfMany = root.manifest.kind === 'index' && flags.platform === undefined;
      const isUnsupported = error instanceof ConvertError && error.code === 'ERR_CONVERT_UNSUPPORTED';
      if (!isOneOfMany || !isUnsupported) throw error;
      others.push({ original: found, reason: error.message });
    }
  }
  if (images.length === 0) {
    const reasons = others.map(({ original, reason }) => `\n  ${original.descriptor.digest}: ${reason}`);
    const there =
      flags.platform === undefined || platforms.length === 0
        ? `the source holds no images that can be converted${reasons.join('')}`
        : `the source has ${platforms.join(', ')}`;
    throw new Error(`there is nothing to convert: ${there}`);
  }
  if (root.manifest.kind !== 'index' || flags.platform !== undefined)
    return { images, index: null, others: [] };
  const byOriginal = new Map<string, Descriptor>(
    images.map(({ original, image }) => [original.descriptor.digest, image.manifest.descriptor]),
  );
  const context = { store: job.store, profile: profileOf(flags) };
  const index = await convertIndex(root.descriptor, root.manifest, byOriginal, context);
  return { images, index: index.descriptor, others };
}

async function readConfig(
  { config }: ImageManifest,
  { origin, signal }: Pick<Job, 'origin' | 'signal'>,
): Promise<ImageConfig> {
  checkConfigSize(config);
  const bytes = await origin.readBlob(config, signal);
  checkSize('config', config, bytes.length);
  return parseImageConfig(bytes);
}

async function convertOne(
  { descriptor, manifest }: FoundManifest,
  config: ImageConfig,
  { origin, store, catalog, workers, flags, signal, progress }: Job,
): Promise<ConvertedImage> {
  if (manifest.kind === 'index') throw new TypeError('an index where an image was expected');
  const image = {
    manifest,
    descriptor,
    config,
    layerFile: (layer: Descriptor, wait: AbortSignal) => origin.layerFile(layer, keepIn(store), wait),
  };
  const limits = limitsOf(flags);
  return withinLimits({ limits, scratch: store.scratch(), signal }, (until) =>
    convertImage(
      image,
      { store, catalog, workers, profile: profileOf(flags), limits, signal: until },
      ({ layersDone, layersTotal, bytesDone, bytesTotal }) => {
        const percent = bytesTotal === 0 ? 100 : Math.floor((bytesDone / bytesTotal) * 100);
        progress.show(
          `converting: ${percent} % of ${formatBytes(bytesTotal)}, ${layersDone} of ${layersTotal} layers done`,
        );
      },
    ),
  );
}

function keepIn(store: BlobStore): Parameters<ImageOrigin['layerFile']>[1] {
  return async ({ digest, size }, body) => {
    const writer = await store.writer({ digest, sizeBytes: size });
    try {
      for await (const piece of body) await writer.write(piece);
      await writer.commit();
    } finally {
      await writer.abort();
    }
    const file = await store.localFile(digest);
    if (file === null) throw isGone(digest, store);
    return file;
  };
}

function profileOf({ algorithm, level, blockSize }: ConvertFlags): ConversionProfile {
  return { ...DEFAULT_PROFILE, algorithm, level, blockSize: Number(blockSize) };
}

function limitsOf({ limit }: ConvertFlags): ConversionLimits {
  return { ...DEFAULT_LIMITS, ...limit };
}

async function exportImage(image: ConvertedImage, store: BlobStore, layout: ImageLayout): Promise<void> {
  const blobs = image.layers.flatMap(({ blobDigest, chunkTableDigest }) => [blobDigest, chunkTableDigest]);
  await Promise.all(blobs.map((digest) => exportBlob({ digest }, store, layout)));
  await exportBlob(image.config.descriptor, store, layout);
  await exportBlob(image.manifest.descriptor, store, layout);
}

/** Copies what is not converted, with all that it names; foreign layers are not in registries. */
async function copyManifest(
  { manifest }: FoundManifest,
  { origin, signal }: Pick<Job, 'origin' | 'signal'>,
  store: BlobStore,
  layout: ImageLayout,
): Promise<void> {
  if (manifest.kind === 'index') {
    for (const child of manifest.manifests) {
      await copyManifest(await origin.manifest(child, signal), { origin, signal }, store, layout);
    }
  } else {
    const layers = manifest.layers.filter(({ mediaType }) => layerFormat(mediaType)?.foreign !== true);
    for (const blob of [manifest.config, ...layers]) {
      await linkInto(layout, await origin.layerFile(blob, keepIn(store), signal), blob.digest);
    }
  }
  await layout.putBlob(manifest.bytes);
}

async function exportBlob(
  { digest }: Pick<Descriptor, 'digest'>,
  store: BlobStore,
  layout: ImageLayout,
): Promise<void> {
  const file = await store.localFile(digest);
  if (file === null) throw isGone(digest, store);
  await linkInto(layout, file, digest);
}

async function linkInto(layout: ImageLayout, file: LocalFile, digest: Digest): Promise<void> {
  try {
    await layout.linkBlob(file.path, digest);
  } finally {
    await file.close();
  }
}

function isGone(digest: Digest, store: BlobStore): Error {
  return new Error(`${digest} was made, but is gone from ${store.scratch()}: let nobody else clean up there`);
}

function printResult({ root, images, others }: ConvertResult, json: boolean, durationMs: number): void {
  const sum = (sizes: readonly number[]) => sizes.reduce((total, size) => total + size, 0);
  const summary = images.map(({ platform, original, image }) => ({
    platform,
    original: original.descriptor.digest,
    converted: image.manifest.descriptor.digest,
    originalBytes:
      original.manifest.kind === 'index' ? 0 : sum(original.manifest.layers.map((layer) => layer.size)),
    convertedBytes: sum(image.layers.map((layer) => layer.blobSizeBytes)),
    tarBytes: sum(image.layers.map((layer) => layer.tarSizeBytes)),
    layers: image.layers,
  }));
  const tarBytes = sum(summary.map((each) => each.tarBytes));
  const peakMemoryBytes = process.resourceUsage().maxRSS * 1024;
  if (json) {
    printJson({
      digest: root.digest,
      mediaType: root.mediaType,
      durationMs,
      tarBytes,
      peakMemoryBytes,
      images: summary,
      leftAsTheyAre: others.map(({ original, reason }) => ({ digest: original.descriptor.digest, reason })),
    });
    return;
  }
  console.log(
    formatTable(
      ['PLATFORM', 'LAYERS', 'TAR', 'ORIGINAL', 'CONVERTED', 'DIGEST'],
      summary.map((each) => [
        each.platform,
        String(each.layers.length),
        formatBytes(each.tarBytes),
        formatBytes(each.originalBytes),
        formatBytes(each.convertedBytes),
        each.converted,
      ]),
    ),
  );
  for (const { original, reason } of others) console.log(`\n${original.descriptor.digest}: ${reason}`);
  const rate = tarBytes / 1000 / durationMs;
  console.log(
    `\n${formatFields([
      ['digest', root.digest],
      ['time', `${(durationMs / 1000).toFixed(2)} s, ${rate.toFixed(0)} MB/s of tar`],
      ['peak memory', formatBytes(peakMemoryBytes)],
    ])}`,
  );
}

function layoutArgument(text: string): LayoutReference {
  const layout = parseLayoutReference(text);
  if (layout === null || layout.directory === '') throw new InvalidArgumentError('write oci:DIRECTORY[:TAG]');
  return layout;
}

function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`write a whole number from ${min} to ${max}`);
  };
}

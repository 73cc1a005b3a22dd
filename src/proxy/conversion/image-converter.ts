import pLimit from 'p-limit';
import type { Document } from '../../convert/assemble.ts';
import { withinLimits } from '../../convert/conversion-guard.ts';
import { checkConfigSize, checkSize } from '../../convert/declared-size.ts';
import { type ConversionContext, convertImage } from '../../convert/image.ts';
import { convertIndex, imagesOf } from '../../convert/image-index.ts';
import { check } from '../../convert/layer-limits.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Descriptor, ImageConfig, ImageManifest } from '../../oci/manifest.ts';
import { parseImageConfig, parseManifest } from '../../oci/manifest.ts';
import type { Catalog, RepositoryName } from '../../store/catalog.ts';
import type { ConversionRecord } from '../../store/conversion-table.ts';
import type { Access } from '../access/access.ts';
import type { Blobs } from '../content/blobs.ts';
import { type Manifests, partsOf } from '../content/manifests.ts';
import { ConversionInputError, ConversionNotWantedError } from '../errors.ts';
import type { Target } from '../upstream/upstreams.ts';
import { type Converter, type MadeManifest, whyNotConverted } from './conversion-queue.ts';

interface Parts {
  readonly access: Pick<Access, 'background' | 'isPerRepository'>;
  readonly manifests: Manifests;
  readonly blobs: Blobs;
  readonly catalog: Pick<Catalog, 'conversions' | 'layer' | 'putLayer' | 'isLinked' | 'link'>;
  /** All but what each conversion has of its own. */
  readonly context: Omit<ConversionContext, 'signal' | 'priority' | 'catalog'>;
  /** So many layers at a time are fetched that nobody but conversions waits for. */
  readonly downloads: number;
  /** Images of fewer bytes of layers, compressed, are left as they are. */
  readonly minImageBytes: number;
}

/** The write river behind the queue: what it needs of an image comes through the proxy's own cache. */
export function imageConverter(parts: Parts): Converter {
  const { access, manifests, blobs, catalog, context } = parts;
  const { limits, store } = context;
  const { conversions } = catalog;
  const background = pLimit(parts.downloads);
  const convert: Converter = async (record, { signal, onProgress, priority }) => {
    const target = access.background(record);
    const { bytes, mediaType, digest } = await unlessAborted(
      manifests.byDigest(target, record.digest),
      signal,
    );
    const manifest = parseManifest(bytes, mediaType);
    const descriptor = { mediaType: manifest.mediaType, digest, size: bytes.length };
    if (manifest.kind === 'index') {
      check(limits, 'indexImages', imagesOf(manifest).length, 'the index lists', 'images');
      const images = convertedImages(await conversions.children(digest, record.profile));
      return toConverted(await convertIndex(descriptor, manifest, images, context), 0);
    }
    const reason = whyNotConverted(manifest);
    if (reason !== null) throw new ConversionInputError(`it is not converted: ${reason}`);
    const layerBytes = manifest.layers.reduce((sum, { size }) => sum + size, 0);
    if (layerBytes < parts.minImageBytes) throw new ConversionNotWantedError(layerBytes, parts.minImageBytes);
    const config = await readConfig(blobs, target, manifest, signal);
    const layerFile = async ({ digest }: Descriptor, until: AbortSignal) => {
      const fetched = () => blobs.localFile(target, digest, until);
      return (await store.stat(digest)) === null ? background(fetched) : fetched();
    };
    const dropLayer = (layer: Descriptor) => store.verify(layer.digest, signal);
    const image = { manifest, descriptor, config, layerFile, dropLayer };
    const layers = access.isPerRepository ? layersOf(target.where, catalog) : catalog;
    const all = { ...context, catalog: layers, signal, priority };
    const made = await convertImage(image, all, onProgress);
    const convertedBytes = made.layers.reduce((sum, { blobSizeBytes }) => sum + blobSizeBytes, 0);
    return toConverted(made.manifest, convertedBytes);
  };
  const scratch = store.scratch();
  return (record, options) =>
    withinLimits({ limits, scratch, signal: options.signal }, (signal) =>
      convert(record, { ...options, signal }),
    );
}

/**
 * The converted layers that were made of a repository's own: a config can claim the chain of an image whose layers are
 * somebody else's. The same chain in another repository is converted anew, to the same bytes.
 */
function layersOf(
  where: RepositoryName,
  catalog: Pick<Catalog, 'layer' | 'putLayer' | 'isLinked' | 'link'>,
): ConversionContext['catalog'] {
  return {
    layer: async (chainId, profile) => {
      const record = await catalog.layer(chainId, profile);
      return record !== null && (await catalog.isLinked(where, record.blobDigest)) ? record : null;
    },
    putLayer: async (record) => {
      await catalog.putLayer(record);
      await catalog.link(where, record.blobDigest, record.chunkTableDigest);
    },
  };
}

/** The config of an image, from the cache or upstream. */
export async function readConfig(
  blobs: Blobs,
  target: Target,
  { config }: ImageManifest,
  signal: AbortSignal,
): Promise<ImageConfig> {
  checkConfigSize(config);
  const source = await blobs.whole(target, config.digest, signal);
  try {
    checkSize('config', config, source.size);
    const bytes = Buffer.alloc(source.size);
    await source.read(0, bytes, signal);
    return parseImageConfig(bytes);
  } finally {
    await source.close();
  }
}

/** By the digests of their originals. */
function convertedImages(images: readonly ConversionRecord[]): Map<string, Descriptor> {
  const byOriginal = new Map<string, Descriptor>();
  for (const { digest, converted } of images) {
    if (converted === null) continue;
    byOriginal.set(digest, {
      mediaType: converted.mediaType,
      digest: converted.digest,
      size: converted.sizeBytes,
    });
  }
  return byOriginal;
}

function toConverted({ descriptor, bytes }: Document, layerBytes: number): MadeManifest {
  const { digest, mediaType, size: sizeBytes } = descriptor;
  return { digest, mediaType, sizeBytes, layerBytes, parts: partsOf({ bytes, mediaType }) };
}

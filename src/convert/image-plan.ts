import { chainIds } from '../oci/chain-id.ts';
import type { Digest } from '../oci/digest.ts';
import type { Descriptor, ImageConfig, ImageManifest } from '../oci/manifest.ts';
import { type LayerFormat, layerFormat } from '../oci/media-types.ts';
import { ConvertError } from './errors.ts';

/** A layer and all that is known of it before it is read. */
export interface PlannedLayer {
  readonly descriptor: Descriptor;
  readonly compression: LayerFormat['compression'];
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly parentChainId: Digest | null;
}

/** The layers of an image, bottom first. Throws ConvertError for an image that cannot be converted. */
export function planLayers(manifest: ImageManifest, config: ImageConfig): PlannedLayer[] {
  const diffIds = config.rootfs.diff_ids;
  if (manifest.kind !== 'image') {
    throw new ConvertError(
      'ERR_CONVERT_UNSUPPORTED',
      'this manifest is an artifact, not an image: it is served as it is',
    );
  }
  if (diffIds.length === 0) {
    throw new ConvertError(
      'ERR_CONVERT_UNSUPPORTED',
      'the image has no layers, so there is nothing to mount',
    );
  }
  if (diffIds.length !== manifest.layers.length) {
    throw new ConvertError(
      'ERR_CONVERT_IMAGE',
      `the manifest has ${manifest.layers.length} layers, its config ${diffIds.length} diff IDs`,
    );
  }
  const chain = chainIds(diffIds);
  return manifest.layers.map((descriptor, index) => ({
    descriptor,
    compression: compressionOf(descriptor),
    diffId: diffIds[index]!,
    chainId: chain[index]!,
    parentChainId: chain[index - 1] ?? null,
  }));
}

function compressionOf(descriptor: Descriptor): LayerFormat['compression'] {
  const format = layerFormat(descriptor.mediaType);
  const reason =
    format === null
      ? 'is not a file system layer'
      : format.encrypted
        ? 'is encrypted'
        : format.foreign
          ? 'is foreign: it may not be distributed by registries'
          : null;
  if (format === null || reason !== null) {
    throw new ConvertError(
      'ERR_CONVERT_UNSUPPORTED',
      `layer ${descriptor.digest} (${descriptor.mediaType}) ${reason}: the image is served as it is`,
    );
  }
  return format.compression;
}

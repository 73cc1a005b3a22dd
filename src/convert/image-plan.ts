import { MAX_LAYERS } from '../format/segments.ts';
import { OVERLAYBD_VERSION_ANNOTATION } from '../oci/annotations.ts';
import { chainIds } from '../oci/chain-id.ts';
import type { Digest } from '../oci/digest.ts';
import type { Descriptor, ImageConfig, ImageManifest } from '../oci/manifest.ts';
import { type LayerFormat, layerFormat } from '../oci/media-types.ts';
import { formatPlatform } from '../oci/platform.ts';
import { ConvertError } from './errors.ts';

/** A layer and all that is known of it before it is read. */
export interface PlannedLayer {
  readonly descriptor: Descriptor;
  readonly compression: LayerFormat['compression'];
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly parentChainId: Digest | null;
}

/** Why a manifest is left as it is, whatever its config says; null if it may be converted. */
export function whyLeftAsItIs({ kind, layers }: ImageManifest): string | null {
  if (kind === 'artifact') return 'it is an artifact, not an image';
  const isConverted = layers.some((layer) => layer.annotations?.[OVERLAYBD_VERSION_ANNOTATION] !== undefined);
  return isConverted ? 'its layers are in the overlaybd format already' : null;
}

/**
 * The layers of an image, bottom first.
 * @throws ConvertError ERR_CONVERT_UNSUPPORTED for an image that is left as it is, ERR_CONVERT_IMAGE for one whose
 *   parts do not fit together
 */
export function planLayers(manifest: ImageManifest, config: ImageConfig): PlannedLayer[] {
  const reason = whyLeftAsItIs(manifest) ?? whyNotForLinux(manifest, config);
  if (reason !== null) throw unsupported(reason);
  const diffIds = config.rootfs.diff_ids;
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

function whyNotForLinux({ layers }: ImageManifest, config: ImageConfig): string | null {
  // Layers of Windows hold its registry and access rights in forms of their own: no file system of Linux shows them.
  if (config.os !== 'linux')
    return `it is for ${formatPlatform(config)}, and only images for linux are converted`;
  if (layers.length === 0) return 'it has no layers, so there is nothing to mount';
  if (layers.length > MAX_LAYERS) {
    return `it has ${layers.length} layers, and overlaybd stacks no more than ${MAX_LAYERS}`;
  }
  return null;
}

function compressionOf({ digest, mediaType }: Descriptor): LayerFormat['compression'] {
  const format = layerFormat(mediaType);
  const layer = `its layer ${digest} (${mediaType})`;
  if (format === null) throw unsupported(`${layer} is not a file system layer`);
  if (format.encrypted) throw unsupported(`${layer} is encrypted`);
  if (format.foreign) throw unsupported(`${layer} is foreign: it may not be distributed by registries`);
  return format.compression;
}

function unsupported(reason: string): ConvertError {
  return new ConvertError('ERR_CONVERT_UNSUPPORTED', `the image is left as it is: ${reason}`);
}

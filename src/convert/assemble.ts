import {
  CHUNK_TABLE_DIGEST_ANNOTATION,
  OVERLAYBD_ARTIFACT_TYPE,
  OVERLAYBD_BLOB_DIGEST_ANNOTATION,
  OVERLAYBD_BLOB_SIZE_ANNOTATION,
  OVERLAYBD_VERSION,
  OVERLAYBD_VERSION_ANNOTATION,
  PROFILE_ANNOTATION,
} from '../oci/annotations.ts';
import { digestOf } from '../oci/digest.ts';
import { type Descriptor, encodeJson, type ImageConfig, type IndexManifest } from '../oci/manifest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST } from '../oci/media-types.ts';
import type { ConvertedLayerRecord } from '../store/catalog.ts';
import { type ConversionProfile, profileId } from './profile.ts';

/** A document that goes into the store under its digest. */
export interface Document {
  readonly descriptor: Descriptor;
  readonly bytes: Buffer;
}

/**
 * The original's config with the converted layers' diff IDs. A converted layer is an uncompressed tar to
 * registries and runtimes, so its diff ID is its blob's digest.
 */
export function assembleConfig(original: ImageConfig, layers: readonly ConvertedLayerRecord[]): Document {
  const rootfs = { type: 'layers', diff_ids: layers.map((layer) => layer.blobDigest) };
  return document(OCI_CONFIG, { ...original.raw, rootfs });
}

/** The converted image's manifest: an overlaybd image, and a referrer of the original. */
export function assembleManifest(
  original: Descriptor,
  config: Document,
  layers: readonly ConvertedLayerRecord[],
  profile: ConversionProfile,
): Document {
  return document(OCI_MANIFEST, {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    artifactType: OVERLAYBD_ARTIFACT_TYPE,
    config: config.descriptor,
    layers: layers.map(layerDescriptor),
    subject: subjectOf(original),
    annotations: { [PROFILE_ANNOTATION]: profileId(profile) },
  });
}

/**
 * The converted index: each converted image in the place of its original, under the same platform; what was
 * not converted (attestations, other artifacts) stays as it was.
 */
export function assembleIndex(
  original: Descriptor,
  index: IndexManifest,
  converted: ReadonlyMap<string, Descriptor>,
  profile: ConversionProfile,
): Document {
  return document(OCI_INDEX, {
    schemaVersion: 2,
    mediaType: OCI_INDEX,
    artifactType: OVERLAYBD_ARTIFACT_TYPE,
    manifests: index.manifests.map((entry) => {
      const image = converted.get(entry.digest);
      return image === undefined ? entry : { ...image, platform: entry.platform };
    }),
    subject: subjectOf(original),
    annotations: { ...index.annotations, [PROFILE_ANNOTATION]: profileId(profile) },
  });
}

function layerDescriptor(layer: ConvertedLayerRecord): Descriptor {
  return {
    mediaType: OCI_LAYER_TAR,
    digest: layer.blobDigest,
    size: layer.blobSizeBytes,
    annotations: {
      [OVERLAYBD_VERSION_ANNOTATION]: OVERLAYBD_VERSION,
      [OVERLAYBD_BLOB_DIGEST_ANNOTATION]: layer.blobDigest,
      [OVERLAYBD_BLOB_SIZE_ANNOTATION]: String(layer.blobSizeBytes),
      [CHUNK_TABLE_DIGEST_ANNOTATION]: layer.chunkTableDigest,
    },
  };
}

function subjectOf({ mediaType, digest, size }: Descriptor): Descriptor {
  return { mediaType, digest, size };
}

function document(mediaType: string, value: object): Document {
  const bytes = encodeJson(value);
  return { bytes, descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length } };
}

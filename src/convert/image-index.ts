import type { Descriptor, IndexManifest } from '../oci/manifest.ts';
import { isImageManifest } from '../oci/media-types.ts';
import { isAttestation } from '../oci/platform.ts';
import type { BlobStore } from '../store/blob-store.ts';
import { assembleIndex, type Document } from './assemble.ts';
import { ConvertError } from './errors.ts';
import type { ConversionProfile } from './profile.ts';

/** The images that an index lists, without attestations and other artifacts. */
export function imagesOf(index: IndexManifest): Descriptor[] {
  return index.manifests.filter(
    (descriptor) => isImageManifest(descriptor.mediaType) && !isAttestation(descriptor),
  );
}

/**
 * Puts the index over converted images into the store. `converted` maps the digest of an original to its
 * converted manifest; entries that are not in it stay as they are.
 */
export async function convertIndex(
  original: Descriptor,
  index: IndexManifest,
  converted: ReadonlyMap<string, Descriptor>,
  context: { store: BlobStore; profile: ConversionProfile },
): Promise<Document> {
  if (converted.size === 0) {
    throw new ConvertError('ERR_CONVERT_UNSUPPORTED', 'the index holds no image that can be converted');
  }
  const document = assembleIndex(original, index, converted, context.profile);
  await context.store.put(document.bytes);
  return document;
}

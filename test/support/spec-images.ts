import { randomBytes } from 'node:crypto';
import { digestOf } from '../../src/oci/digest.ts';
import { DOCKER_MANIFEST_LIST, OCI_INDEX, OCI_LAYER_TAR } from '../../src/oci/media-types.ts';
import { type MadeManifest, makeImage, makeIndex } from './made-image.ts';
import { END_BLOCKS, tarMember } from './tar-blocks.ts';

/** A layer that no other image has: a tar with one file. */
export function freshLayer(sizeBytes = 1000) {
  const bytes = Buffer.concat([tarMember({ path: 'file' }, randomBytes(sizeBytes)), END_BLOCKS]);
  return { mediaType: OCI_LAYER_TAR, bytes, diffId: digestOf(bytes) };
}

/** An image that is no other. */
export function freshImage(shape: { docker?: boolean; manifest?: object; layerBytes?: number } = {}) {
  const { layerBytes, ...rest } = shape;
  return makeImage([freshLayer(layerBytes)], rest);
}

/** One image for amd64 and one for arm64. */
export function freshIndex(docker = false): MadeManifest {
  const entries = ['amd64', 'arm64'].map((architecture) => ({
    made: freshImage({ docker }),
    more: { platform: { os: 'linux', architecture } },
  }));
  return makeIndex(entries, docker ? DOCKER_MANIFEST_LIST : OCI_INDEX);
}

export function freshBlob(sizeBytes = 4096): Buffer {
  return randomBytes(sizeBytes);
}

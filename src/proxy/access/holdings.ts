import type { Digest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import type { Blobs } from '../content/blobs.ts';
import { type Manifests, readManifest } from '../content/manifests.ts';
import type { Target } from '../upstream/upstreams.ts';

/** Tells whether a repository has, by upstream's own word, all that an image or index consists of. */
export type Holdings = (target: Target, digest: Digest) => Promise<boolean>;

/**
 * For where rights differ: to name a blob in a manifest, or the chain of layers in a config, is no right to what was
 * made of them elsewhere. What upstream has said once is not asked again.
 * @param parts.signal ends the questions
 */
export function holdings(parts: {
  readonly manifests: Manifests;
  readonly blobs: Blobs;
  readonly signal: AbortSignal;
}): Holdings {
  const { manifests, blobs, signal } = parts;
  const holds = async (target: Target, digest: Digest): Promise<void> => {
    const manifest = readManifest(await manifests.byDigest(target, digest));
    if (manifest === null) return;
    if (manifest.kind === 'index') {
      for (const image of manifest.manifests) await holds(target, image.digest);
      return;
    }
    const named = [manifest.config, ...manifest.layers];
    await Promise.all(named.map((blob) => blobs.sizeBytes(target, blob.digest, signal)));
  };
  return async (target, digest) => {
    try {
      await holds(target, digest);
      return true;
    } catch (error) {
      if (error instanceof RegistryError && error.code === 'ERR_REGISTRY_NOT_FOUND') return false;
      throw error;
    }
  };
}

import { arch } from 'node:process';
import { DOCKER_REFERENCE_TYPE_ANNOTATION, DOCKER_REFERENCE_TYPE_ATTESTATION } from './annotations.ts';
import { OciError } from './errors.ts';
import type { Descriptor, IndexManifest, Platform } from './manifest.ts';

/** GOARCH names, which OCI uses, of Node's where they differ. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' };

/** Linux on this machine's architecture. */
export function defaultPlatform(): Platform {
  return { os: 'linux', architecture: ARCHITECTURES[arch] ?? arch };
}

/** Whether an index's entry is a BuildKit attestation (provenance, SBOM) of another entry, not an image. */
export function isAttestation(descriptor: Descriptor): boolean {
  return descriptor.annotations?.[DOCKER_REFERENCE_TYPE_ANNOTATION] === DOCKER_REFERENCE_TYPE_ATTESTATION;
}

export function formatPlatform({ os, architecture, variant }: Platform): string {
  return [os, architecture, ...(variant === undefined ? [] : [variant])].join('/');
}

/**
 * The image of an index for a platform: of those with its os and architecture the one with the highest
 * variant that it can run. Without a match, an only entry that names no platform.
 * @throws OciError ERR_PLATFORM_NOT_FOUND, naming the platforms there are
 */
export function selectPlatform(index: IndexManifest, wanted: Platform = defaultPlatform()): Descriptor {
  const images = index.manifests.filter((descriptor) => !isAttestation(descriptor));
  const wantedLevel = variantLevel(wanted);
  let best: Descriptor | null = null;
  let bestLevel = Number.NEGATIVE_INFINITY;
  for (const descriptor of images) {
    const { platform } = descriptor;
    if (platform?.os !== wanted.os || platform.architecture !== wanted.architecture) continue;
    const level = variantLevel(platform);
    if (level > wantedLevel || level <= bestLevel) continue;
    best = descriptor;
    bestLevel = level;
  }
  if (best !== null) return best;
  const [only] = images;
  if (images.length === 1 && only !== undefined && only.platform === undefined) return only;
  const offered = images.flatMap(({ platform }) =>
    platform === undefined ? [] : [formatPlatform(platform)],
  );
  throw new OciError(
    'ERR_PLATFORM_NOT_FOUND',
    `the index holds no image for ${formatPlatform(wanted)}; it has ${offered.join(', ') || 'none that names a platform'}`,
  );
}

/** Variants that are meant where none is named (OCI image-spec, image-index.md, "Platform Variants"). */
const BASE_VARIANT: Readonly<Record<string, string>> = { amd64: 'v1', arm: 'v7', arm64: 'v8' };

/** Variants of one architecture in order: a machine runs those at and below its own. */
function variantLevel({ architecture, variant }: Platform): number {
  const text = variant ?? BASE_VARIANT[architecture] ?? 'v0';
  const level = Number(text.replace(/^v/, ''));
  return Number.isNaN(level) ? 0 : level;
}

export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
export const OCI_LAYER_TAR = 'application/vnd.oci.image.layer.v1.tar';
export const OCI_EMPTY = 'application/vnd.oci.empty.v1+json';
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
export const DOCKER_MANIFEST_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
export const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json';
const DOCKER_MANIFEST_V1 = 'application/vnd.docker.distribution.manifest.v1+json';
const DOCKER_MANIFEST_V1_SIGNED = 'application/vnd.docker.distribution.manifest.v1+prettyjws';

/** What we ask registries for, in the order clients usually do. */
export const MANIFEST_ACCEPT: readonly string[] = [
  OCI_INDEX,
  OCI_MANIFEST,
  DOCKER_MANIFEST_LIST,
  DOCKER_MANIFEST,
];

/** A content type without its parameters (`; charset=utf-8`), in lower case. */
export function bareMediaType(mediaType: string): string {
  return (mediaType.split(';', 1)[0] ?? '').trim().toLowerCase();
}

export function isIndex(mediaType: string): boolean {
  return mediaType === OCI_INDEX || mediaType === DOCKER_MANIFEST_LIST;
}

export function isImageManifest(mediaType: string): boolean {
  return mediaType === OCI_MANIFEST || mediaType === DOCKER_MANIFEST;
}

export function isImageConfig(mediaType: string): boolean {
  return mediaType === OCI_CONFIG || mediaType === DOCKER_CONFIG;
}

export function isDockerSchema1(mediaType: string): boolean {
  return mediaType === DOCKER_MANIFEST_V1 || mediaType === DOCKER_MANIFEST_V1_SIGNED;
}

/** What a layer's media type says about its bytes. */
export interface LayerFormat {
  readonly compression: 'none' | 'gzip' | 'zstd';
  /** Not to be distributed by registries in general: its descriptor may name `urls` to fetch it from. */
  readonly foreign: boolean;
  /** Ciphertext of ocicrypt: cannot be read without keys. */
  readonly encrypted: boolean;
}

const OCI_LAYER =
  /^application\/vnd\.oci\.image\.layer\.(?<foreign>nondistributable\.)?v1\.tar(?:\+(?<compression>gzip|zstd))?(?<encrypted>\+encrypted)?$/;
const DOCKER_LAYER =
  /^application\/vnd\.docker\.image\.rootfs\.(?<foreign>foreign\.)?diff\.tar(?:\.(?<compression>gzip|zstd))?(?<encrypted>\+encrypted)?$/;

/** The format of a layer of an OCI or Docker image; null if the media type is not that of an image layer. */
export function layerFormat(mediaType: string): LayerFormat | null {
  const groups = (OCI_LAYER.exec(mediaType) ?? DOCKER_LAYER.exec(mediaType))?.groups;
  if (groups === undefined) return null;
  const { compression, foreign, encrypted } = groups;
  return {
    compression: compression === 'gzip' || compression === 'zstd' ? compression : 'none',
    foreign: foreign !== undefined,
    encrypted: encrypted !== undefined,
  };
}

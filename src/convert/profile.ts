import type { Algorithm } from '../format/block-codec.ts';
import { DEFAULT_CHUNK_BYTES } from '../format/chunk-table.ts';

/** The options that decide a converted layer's bytes. Two proxies with one profile write the same digests. */
export interface ConversionProfile {
  readonly algorithm: Algorithm;
  /** zstd's level; LZ4 has none. */
  readonly level: number;
  /** Bytes compressed together: what a random read must decompress at least. */
  readonly blockSize: number;
  readonly chunkSize: number;
}

/** Raised when the same input and options give other bytes than the release before. */
const FORMAT_VERSION = 1;

export const DEFAULT_PROFILE: ConversionProfile = {
  algorithm: 'zstd',
  level: 3,
  blockSize: 32_768,
  chunkSize: DEFAULT_CHUNK_BYTES,
};

/** The profile as a short name: a key beside the chain ID, and an annotation of converted manifests. */
export function profileId(profile: ConversionProfile): string {
  const codec = profile.algorithm === 'zstd' ? `zstd${profile.level}` : profile.algorithm;
  return `erofs${FORMAT_VERSION}-${codec}-${profile.blockSize / 1024}k-${profile.chunkSize / 1024}k`;
}

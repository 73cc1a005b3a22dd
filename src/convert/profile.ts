import { type Algorithm, blockCodec } from '../format/block-codec.ts';
import { DEFAULT_CHUNK_BYTES } from '../format/chunk-table.ts';

/** The options that decide a converted layer's bytes. */
export interface ConversionProfile {
  readonly algorithm: Algorithm;
  /** zstd's level; LZ4 has none. */
  readonly level: number;
  /** Bytes compressed together: what a random read must decompress at least. */
  readonly blockSize: number;
  readonly chunkSize: number;
}

/** Raised when the same input and options give other bytes than the release before. */
const FORMAT_VERSION = 2;

export const DEFAULT_PROFILE: ConversionProfile = {
  algorithm: 'zstd',
  level: 3,
  blockSize: 32_768,
  chunkSize: DEFAULT_CHUNK_BYTES,
};

/**
 * The profile as a short name: a key beside the chain ID, and an annotation of converted manifests. It names the
 * compression library's version too, so that proxies with one profile ID write the same digests.
 */
export function profileId({ algorithm, level, blockSize, chunkSize }: ConversionProfile): string {
  const { version } = blockCodec(algorithm, level);
  const codec = algorithm === 'zstd' ? `zstd${version}-l${level}` : `${algorithm}${version}`;
  return `erofs${FORMAT_VERSION}-${codec}-${blockSize / 1024}k-${chunkSize / 1024}k`;
}

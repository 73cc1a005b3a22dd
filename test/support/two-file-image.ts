import { chainIds } from '../../src/oci/chain-id.ts';
import { digestOf } from '../../src/oci/digest.ts';
import type { FakeRegistry } from './fake-registry.ts';
import type { LazyImage } from './lazy-pull.ts';
import { randomBytes } from './random-bytes.ts';
import { END_BLOCKS, tarMember } from './tar-blocks.ts';

/** Of two layers with a file each: `file1` in the lower one, `file2` in the upper one. */
export interface TwoFileImage extends LazyImage {
  readonly files: readonly Buffer[];
}

/** Puts one on a registry, as `reg.example/lib/a:SEED`; with another seed it has other files. */
export function putTwoFileImage(registry: FakeRegistry, seed: number, fileBytes: number): TwoFileImage {
  const files = [1, 2].map((file) => randomBytes(fileBytes, 10 * seed + file));
  const layers = files.map((bytes, index) =>
    Buffer.concat([tarMember({ path: `file${index + 1}` }, bytes), END_BLOCKS]),
  );
  const { digest } = registry.putImage(layers, String(seed));
  const digests = layers.map((bytes) => digestOf(bytes));
  const chains = chainIds(digests);
  return {
    reference: `reg.example/lib/a:${seed}`,
    manifestDigest: digest,
    layers: digests.map((layer, at) => ({ digest: layer, chainId: chains[at]! })),
    files,
  };
}

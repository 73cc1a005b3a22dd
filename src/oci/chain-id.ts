import { type Digest, digestOf } from './digest.ts';

/**
 * The chain ID of each layer, bottom first: what the layer is on top of those below it (OCI image-spec,
 * config.md, "Layer ChainID").
 */
export function chainIds(diffIds: readonly Digest[]): Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) {
    const parent = chain.at(-1);
    chain.push(parent === undefined ? diffId : digestOf(`${parent} ${diffId}`));
  }
  return chain;
}

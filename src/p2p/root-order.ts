import { createHash } from 'node:crypto';
import type { Digest } from '../oci/digest.ts';

/**
 * The roots in the order in which a content's tree is asked for (rendezvous hashing, Thaler and Ravishankar 1998): the same
 * for all hosts that know the same roots, each root the first for its share of the contents; when one is gone only its own
 * contents move.
 * @param roots URLs, as all hosts write them but for a slash at the end
 */
export function rootOrder(roots: readonly string[], table: Digest): readonly string[] {
  const weights = new Map(roots.map((root) => [root, weight(root, table)]));
  return [...weights.keys()].toSorted((a, b) => Buffer.compare(weights.get(b)!, weights.get(a)!));
}

function weight(root: string, table: Digest): Buffer {
  return createHash('sha256')
    .update(`${root.replace(/\/+$/, '')} ${table}`)
    .digest();
}

import { LRUCache } from 'lru-cache';
import type { Digest } from '../../oci/digest.ts';
import type { RepositoryName } from '../../store/catalog.ts';

/** What is thrown away meanwhile is still named for so long: who cannot read it asks again. */
const KEPT_MS = 1_000;
const MAX_IMAGES = 1_000;

/** What hosts are answered about images that are wholly converted, for a moment: many start the same one at once. */
export class WholeImages {
  readonly #answers = new LRUCache<string, object>({ max: MAX_IMAGES, ttl: KEPT_MS });

  find(where: RepositoryName, digest: Digest): object | null {
    return this.#answers.get(keyOf(where, digest)) ?? null;
  }

  keep(where: RepositoryName, digest: Digest, answer: object): void {
    this.#answers.set(keyOf(where, digest), answer);
  }
}

function keyOf({ upstream, repository }: RepositoryName, digest: Digest): string {
  return `${upstream}/${repository}@${digest}`;
}

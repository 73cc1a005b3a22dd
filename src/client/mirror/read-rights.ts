import { LRUCache } from 'lru-cache';
import type { Digest } from '../../oci/digest.ts';
import { type Caller, isAnybody } from './callers.ts';
import type { KnownContent } from './known-content.ts';
import type { MirrorTarget } from './mirror-target.ts';

/** How long a proxy's yes holds. */
const TTL_MS = 60_000;
const MAX_GRANTS = 100_000;

/**
 * Who may read what is kept on this host: whom a proxy gave that content of that repository a moment ago. What a
 * repository has, no other one has for that reason.
 */
export class ReadRights {
  readonly #known: KnownContent;
  /** When it was granted, by caller and content. */
  readonly #grants = new LRUCache<string, number>({ max: MAX_GRANTS });

  constructor(known: KnownContent) {
    this.#known = known;
  }

  grant(caller: Caller, target: MirrorTarget, digest: Digest): void {
    this.#grants.set(keyOf(caller, target, digest), performance.now());
    if (isAnybody(caller)) this.#known.putPublic(target, digest);
  }

  /** A proxy said so a moment ago. */
  isGranted(caller: Caller, target: MirrorTarget, digest: Digest): boolean {
    const atMs = this.#grants.get(keyOf(caller, target, digest));
    return atMs !== undefined && performance.now() - atMs < TTL_MS;
  }

  /** What was true last, for when no proxy can be asked. What anybody might read is remembered over restarts. */
  wasGranted(caller: Caller, target: MirrorTarget, digest: Digest): boolean {
    return this.#grants.has(keyOf(caller, target, digest)) || this.#known.isPublic(target, digest);
  }
}

function keyOf({ identity }: Caller, { registry, repository }: MirrorTarget, digest: Digest): string {
  return `${identity} ${registry}/${repository} ${digest}`;
}

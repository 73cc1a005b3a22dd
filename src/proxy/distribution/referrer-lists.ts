import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import type { Digest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import { type Descriptor, encodeJson, MAX_MANIFEST_BYTES, parseManifest } from '../../oci/manifest.ts';
import { OCI_INDEX } from '../../oci/media-types.ts';
import type { BlobStore } from '../../store/blob-store.ts';
import type { Catalog, TagRecord } from '../../store/catalog.ts';
import { tryToKeep } from '../content/keep.ts';
import type { Manifests } from '../content/manifests.ts';
import { SingleFlight } from '../http/single-flight.ts';
import type { Outages } from '../upstream/outages.ts';
import type { Target } from '../upstream/upstreams.ts';

/** What an upstream says refers to a digest. */
export interface ReferrerList {
  readonly descriptors: readonly Descriptor[];
  /** Why it may be out of date or not all, if it may. */
  readonly warning: string | null;
}

const NOBODY: ReferrerList = { descriptors: [], warning: null };
const MAX_EMPTY_LISTS = 10_000;

/**
 * Upstreams' lists of referrers, asked for again after a time. Those that are not empty are kept as indexes in the
 * store, for when upstream cannot be asked.
 */
export class ReferrerLists {
  readonly #store: BlobStore;
  readonly #catalog: Catalog;
  readonly #manifests: Manifests;
  readonly #ttlMs: () => number;
  readonly #outages: Outages;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  readonly #flights = new SingleFlight<ReferrerList>();
  /** Most digests have none, and nothing in the store: until when that is believed. */
  readonly #empty = new LRUCache<string, { readonly untilMs: number }>({ max: MAX_EMPTY_LISTS });

  /** `signal` ends all requests to upstreams. */
  constructor(parts: {
    store: BlobStore;
    catalog: Catalog;
    manifests: Manifests;
    ttlMs: () => number;
    outages: Outages;
    log: Logger;
    signal: AbortSignal;
  }) {
    this.#store = parts.store;
    this.#catalog = parts.catalog;
    this.#manifests = parts.manifests;
    this.#ttlMs = parts.ttlMs;
    this.#outages = parts.outages;
    this.#log = parts.log;
    this.#signal = parts.signal;
  }

  /** Rejects only when something of ours fails: an upstream that cannot say has a list with a warning. */
  async of(target: Target, digest: Digest): Promise<ReferrerList> {
    const { upstream, repository } = target.where;
    const key = `${upstream}/${repository}@${digest}`;
    if ((this.#empty.get(key)?.untilMs ?? 0) > Date.now()) return NOBODY;
    const known = await this.#catalog.tag(target.where, recordName(digest));
    if (known !== null && Date.now() - known.checkedAtMs < this.#ttlMs()) {
      const descriptors = await this.#stored(known);
      if (descriptors !== null) return { descriptors, warning: null };
    }
    return this.#flights.run(key, () => this.#ask(target, digest, known, key));
  }

  async #ask(target: Target, digest: Digest, known: TagRecord | null, key: string): Promise<ReferrerList> {
    const { where, client } = target;
    try {
      const descriptors = await this.#outages.ask(target, async () => {
        const found = await client.referrers(where.repository, digest, { signal: this.#signal });
        // Here, so that what comes too late for this one is there for the next.
        if (found.length > 0) await this.#keep(target, digest, found);
        else await this.#forget(target, digest, known, key);
        return found;
      });
      return { descriptors, warning: null };
    } catch (error) {
      this.#signal.throwIfAborted();
      if (!(error instanceof RegistryError)) throw error;
      if (error.code === 'ERR_REGISTRY_NOT_FOUND') {
        await this.#forget(target, digest, known, key);
        return NOBODY;
      }
      const mayShow = known !== null && error.code !== 'ERR_REGISTRY_UNAUTHORIZED';
      const stale = mayShow ? await this.#stored(known) : null;
      this.#log.warn({ err: error, ...where, digest }, 'referrers without word of upstream');
      const said = `${where.upstream} cannot be asked (${error.code})`;
      if (known === null || stale === null) return { descriptors: [], warning: said };
      const since = new Date(known.checkedAtMs).toISOString();
      return { descriptors: stale, warning: `${said}; this is of ${since}` };
    }
  }

  async #stored({ digest }: TagRecord): Promise<readonly Descriptor[] | null> {
    const served = await this.#manifests.stored(digest);
    if (served === null) return null;
    const manifest = parseManifest(served.bytes, OCI_INDEX);
    return manifest.kind === 'index' ? manifest.manifests : null;
  }

  async #keep({ where }: Target, subject: Digest, descriptors: readonly Descriptor[]): Promise<void> {
    const bytes = encodeJson(indexOf(descriptors));
    // What could not be read again as an index is asked for each time.
    if (bytes.length > MAX_MANIFEST_BYTES) return;
    await tryToKeep(this.#log, async () => {
      const digest = await this.#store.put(bytes);
      await this.#catalog.putManifest(digest, OCI_INDEX, bytes.length, []);
      await this.#catalog.putTag(where, recordName(subject), { digest, checkedAtMs: Date.now() });
    });
  }

  async #forget({ where }: Target, subject: Digest, known: TagRecord | null, key: string): Promise<void> {
    this.#empty.set(key, { untilMs: Date.now() + this.#ttlMs() });
    if (known !== null) await tryToKeep(this.#log, () => this.#catalog.removeTag(where, recordName(subject)));
  }
}

/** An index of these descriptors (distribution-spec, "Listing Referrers"). */
export function indexOf(descriptors: readonly Descriptor[]): object {
  return { schemaVersion: 2, mediaType: OCI_INDEX, manifests: descriptors };
}

/** Under what the catalog keeps the list: with its blank it can be no tag. */
function recordName(digest: Digest): string {
  return `referrers ${digest}`;
}

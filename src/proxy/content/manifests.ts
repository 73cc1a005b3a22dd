import type { Logger } from 'pino';
import { CHUNK_TABLE_DIGEST_ANNOTATION } from '../../oci/annotations.ts';
import { type Digest, isDigest, matchesDigest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import { type Manifest, parseManifest } from '../../oci/manifest.ts';
import { layerFormat, MANIFEST_ACCEPT } from '../../oci/media-types.ts';
import type { BlobStore } from '../../store/blob-store.ts';
import type { Catalog, TagRecord } from '../../store/catalog.ts';
import { isStoreFailure } from '../../store/errors.ts';
import { SingleFlight } from '../http/single-flight.ts';
import type { NegativeAnswers } from '../upstream/negative-answers.ts';
import type { Outages } from '../upstream/outages.ts';
import type { Target } from '../upstream/upstreams.ts';
import { tryToKeep, tryToRead } from './keep.ts';

/** A manifest as upstream has it, byte for byte. */
export interface ServedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Buffer;
  readonly source: 'cache' | 'upstream' | 'converted';
  /** Why it may be out of date, if it may. */
  readonly warning: string | null;
}

/** Upstream said something about the tag: not an outage, and not to be answered from the cache. */
export const VERDICTS: ReadonlySet<string> = new Set(['ERR_REGISTRY_NOT_FOUND', 'ERR_REGISTRY_UNAUTHORIZED']);

/** Registries refuse what is not named, or give what they have: so both are said. */
const ANYTHING: readonly string[] = [...MANIFEST_ACCEPT, '*/*'];

interface AskedTag {
  readonly tag: string;
  /** See {@link recordName}. */
  readonly record: string;
  readonly accept: readonly string[];
}

/**
 * Under what the catalog keeps the meaning of a tag to a client that takes only some kinds of manifests. With its
 * blanks, such a name can be no tag.
 */
function recordName(tag: string, kinds: readonly string[] | null): string {
  return kinds === null ? tag : [tag, ...kinds].join(' ');
}

/** Manifests by tag and digest, fetched when they are first asked for. */
export class Manifests {
  readonly #store: BlobStore;
  readonly #catalog: Catalog;
  readonly #tagTtlMs: () => number;
  readonly #outages: Outages;
  readonly #negatives: NegativeAnswers;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  readonly #trustsNames: boolean;
  readonly #flights = new SingleFlight<ServedManifest>();
  /** On their way into the store. */
  readonly #coming = new Map<Digest, { readonly manifest: ServedManifest; readonly stored: Promise<void> }>();

  /**
   * @param parts.trustsNames whether a repository has what its manifests name, without a word of upstream: some
   *   registries take manifests that name anything. No right may hang on it where rights differ.
   * @param parts.signal ends all requests to upstreams: those of single callers do not, others may wait for the same
   */
  constructor(parts: {
    store: BlobStore;
    catalog: Catalog;
    tagTtlMs: () => number;
    outages: Outages;
    negatives: NegativeAnswers;
    trustsNames: boolean;
    log: Logger;
    signal: AbortSignal;
  }) {
    this.#store = parts.store;
    this.#catalog = parts.catalog;
    this.#tagTtlMs = parts.tagTtlMs;
    this.#outages = parts.outages;
    this.#negatives = parts.negatives;
    this.#trustsNames = parts.trustsNames;
    this.#log = parts.log;
    this.#signal = parts.signal;
  }

  /** Waits for what is on its way into the store. */
  async close(): Promise<void> {
    await Promise.all([...this.#coming.values()].map(({ stored }) => stored));
  }

  /**
   * What a tag means, asked of upstream unless it was within the TTL. If upstream cannot say, what it meant
   * last, with a warning.
   * @param kinds what it means to a client that takes only these media types; null for one that takes them all
   * @throws RegistryError, StoreError
   */
  async byTag(target: Target, tag: string, kinds: readonly string[] | null = null): Promise<ServedManifest> {
    const { where } = target;
    const asked = { tag, record: recordName(tag, kinds), accept: kinds ?? ANYTHING };
    const known = await this.#catalog.tag(where, asked.record);
    if (known !== null && Date.now() - known.checkedAtMs < this.#tagTtlMs()) {
      const fresh = await this.stored(known.digest);
      if (fresh !== null) return fresh;
    }
    return this.#flights.run(`${where.upstream}/${where.repository}:${asked.record}`, () =>
      this.#negatives.ask(target, asked.record, () =>
        known === null ? this.#resolve(target, asked) : this.#revalidate(target, asked, known),
      ),
    );
  }

  /** @throws RegistryError, StoreError */
  async byDigest(target: Target, digest: Digest): Promise<ServedManifest> {
    const { where, client } = target;
    const stored = await this.stored(digest);
    const isLinked = stored !== null && (await this.#catalog.isLinked(where, digest));
    // Where rights differ, upstream's refusal must not tell what others have: it is asked as for what nobody has.
    if (stored === null || !(isLinked || this.#trustsNames)) {
      const key = `${where.upstream}/${where.repository}@${digest}`;
      return this.#flights.run(key, () =>
        this.#negatives.ask(target, `manifest ${digest}`, () => this.#fetch(target, digest)),
      );
    }
    if (!isLinked) {
      // Another repository has it. Whether this one does is for upstream to say.
      await this.#negatives.ask(target, `manifest ${digest}`, () =>
        client.resolve(where.repository, digest, { accept: ANYTHING, signal: this.#signal }),
      );
      await this.#link(target, stored);
    }
    return stored;
  }

  /** A manifest that is kept, and still what it was, without asking whose it is. */
  async stored(digest: Digest): Promise<ServedManifest | null> {
    const coming = this.#coming.get(digest);
    if (coming !== undefined) return { ...coming.manifest, source: 'cache' };
    const mediaType = await this.#catalog.manifestMediaType(digest);
    const source = mediaType === null ? null : await tryToRead(this.#log, () => this.#store.open(digest));
    if (mediaType === null || source === null) return null;
    try {
      const bytes = Buffer.alloc(source.size);
      await source.read(0, bytes);
      if (!matchesDigest(bytes, digest)) return null;
      return { digest, mediaType, bytes, source: 'cache', warning: null };
    } finally {
      await source.close();
    }
  }

  async #resolve(target: Target, { tag, record, accept }: AskedTag): Promise<ServedManifest> {
    const { where, client } = target;
    const { digest } = await client.resolve(where.repository, tag, { accept, signal: this.#signal });
    const manifest = await this.byDigest(target, digest);
    await this.#keep(() => this.#catalog.putTag(where, record, { digest, checkedAtMs: Date.now() }));
    return manifest;
  }

  async #revalidate(target: Target, asked: AskedTag, known: TagRecord): Promise<ServedManifest> {
    const { where } = target;
    const { tag, record } = asked;
    try {
      return await this.#outages.ask(target, () => this.#resolve(target, asked));
    } catch (error) {
      this.#signal.throwIfAborted();
      const code = error instanceof RegistryError ? error.code : null;
      if (code === 'ERR_REGISTRY_NOT_FOUND') await this.#keep(() => this.#catalog.removeTag(where, record));
      const stale = code === null || VERDICTS.has(code) ? null : await this.stored(known.digest);
      if (stale === null) throw error;
      this.#log.warn({ err: error, ...where, tag, digest: known.digest }, 'serving a tag from the cache');
      const since = new Date(known.checkedAtMs).toISOString();
      return { ...stale, warning: `${where.upstream} cannot be asked (${code}); this is of ${since}` };
    }
  }

  async #fetch(target: Target, digest: Digest): Promise<ServedManifest> {
    const { repository } = target.where;
    const fetched = await target.client.manifest(repository, digest, {
      accept: ANYTHING,
      signal: this.#signal,
    });
    const { bytes } = fetched;
    const mediaType = mediaTypeOf(bytes, fetched.mediaType);
    // Its digest is not that of its bytes, by which the store keeps things: upstream is asked each time.
    const manifest = { digest, mediaType, bytes, source: 'upstream' as const, warning: null };
    if (!matchesDigest(bytes, digest)) return manifest;
    await this.#link(target, manifest);
    this.#storeSoon(manifest);
    return manifest;
  }

  /** Nobody waits until it is durable: meanwhile it is served from memory. */
  #storeSoon(manifest: ServedManifest): void {
    const { digest, mediaType, bytes } = manifest;
    const store = async () => {
      if (!(await this.#tryToStore(digest, bytes))) return;
      await this.#keep(() => this.#catalog.putManifest(digest, mediaType, bytes.length, partsOf(manifest)));
    };
    const stored = store()
      .catch((error: unknown) => this.#log.error({ err: error, digest }, 'a manifest cannot be kept'))
      .finally(() => this.#coming.delete(digest));
    this.#coming.set(digest, { manifest, stored });
  }

  /** False if that cannot be, as for want of room: it is served all the same. */
  async #tryToStore(digest: Digest, bytes: Buffer): Promise<boolean> {
    try {
      const writer = await this.#store.writer({ digest, sizeBytes: bytes.length });
      await writer.write(bytes);
      await writer.commit();
      return true;
    } catch (error) {
      if (!isStoreFailure(error)) throw error;
      this.#log.warn({ err: error, digest }, 'a manifest cannot be kept');
      return false;
    }
  }

  /** What a manifest of a repository names is that repository's too, if names are trusted. */
  #link({ where }: Target, served: ServedManifest): Promise<void> {
    const named = this.#trustsNames ? namedDigests(served) : [];
    return this.#keep(() => this.#catalog.link(where, served.digest, ...named));
  }

  #keep(write: () => Promise<void>): Promise<void> {
    return tryToKeep(this.#log, write);
  }
}

/**
 * The digests that a manifest names; none of one that we cannot read (it is passed on as it is). Not those that come
 * from elsewhere (foreign layers): registries take them from anybody unseen, so naming one proves no right to it.
 */
function namedDigests(served: Pick<ServedManifest, 'bytes' | 'mediaType'>): Digest[] {
  const manifest = readManifest(served);
  if (manifest === null) return [];
  const named = manifest.kind === 'index' ? manifest.manifests : [manifest.config, ...manifest.layers];
  return named
    .filter(({ mediaType, urls }) => urls === undefined && layerFormat(mediaType)?.foreign !== true)
    .map(({ digest }) => digest);
}

/** All that a manifest needs of what we keep: what it names, and the chunk tables of converted layers. */
export function partsOf(served: Pick<ServedManifest, 'bytes' | 'mediaType'>): Digest[] {
  return [...namedDigests(served), ...chunkTables(served)];
}

function chunkTables(served: Pick<ServedManifest, 'bytes' | 'mediaType'>): Digest[] {
  const manifest = readManifest(served);
  if (manifest === null || manifest.kind === 'index') return [];
  return manifest.layers
    .map((layer) => layer.annotations?.[CHUNK_TABLE_DIGEST_ANNOTATION] ?? '')
    .filter((text) => isDigest(text));
}

/**
 * What a manifest is, by its own bytes if they say so: under its digest it is kept for all repositories, of all
 * upstreams, and the header is only one upstream's word.
 */
function mediaTypeOf(bytes: Buffer, header: string): string {
  return readManifest({ bytes, mediaType: '' })?.mediaType ?? (header || 'application/octet-stream');
}

/** Null for what is neither an image nor an index that we can read: it is passed on all the same. */
export function readManifest({
  bytes,
  mediaType,
}: Pick<ServedManifest, 'bytes' | 'mediaType'>): Manifest | null {
  try {
    return parseManifest(bytes, mediaType);
  } catch {
    return null;
  }
}

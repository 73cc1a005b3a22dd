import type { Digest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import { parseManifest } from '../../oci/manifest.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { Catalog, RepositoryName } from '../../store/catalog.ts';
import type { ConversionRecord } from '../../store/conversion-table.ts';
import type { Holdings } from '../access/holdings.ts';
import { type Manifests, partsOf, readManifest, type ServedManifest } from '../content/manifests.ts';
import { isSameRepository, type Target } from '../upstream/upstreams.ts';
import { type ConversionQueue, whyNotConverted } from './conversion-queue.ts';
import { type ConversionStatus, conversionStatus } from './conversion-status.ts';

/** A tag with it behind is the same image, converted: what stock overlaybd tools call theirs too. */
const SUFFIX = '_obd';

/** The converted images, by the names they are reached by. */
export class ConvertedImages {
  readonly #catalog: Catalog;
  readonly #manifests: Manifests;
  readonly #queue: ConversionQueue;
  readonly #profile: string;

  readonly #holdings: Holdings | null;

  /** @param parts.holdings what a repository must have to be shown what was made of it; null where rights are one */
  constructor(parts: {
    catalog: Catalog;
    manifests: Manifests;
    queue: ConversionQueue;
    profile: string;
    holdings: Holdings | null;
  }) {
    this.#catalog = parts.catalog;
    this.#manifests = parts.manifests;
    this.#queue = parts.queue;
    this.#profile = parts.profile;
    this.#holdings = parts.holdings;
  }

  /** The tag of the original if `tag` names a converted image, else null. */
  originalTag(tag: string): string | null {
    return tag.endsWith(SUFFIX) && tag.length > SUFFIX.length ? tag.slice(0, -SUFFIX.length) : null;
  }

  /**
   * The converted form of what `originalTag` means now. To ask for it queues it.
   * @throws RequestError MANIFEST_UNKNOWN that says how far the conversion is, or why there is none; RegistryError
   */
  async byTag(target: Target, originalTag: string): Promise<ServedManifest> {
    const original = await this.#original(target, originalTag);
    if (original === null) return this.#manifests.byTag(target, `${originalTag}${SUFFIX}`);
    await this.#queue.offer(target.where, original);
    const record = await this.#catalog.conversions.get(original.digest, this.#profile);
    const converted = record === null ? null : await this.#show(target, record);
    if (converted !== null) return { ...converted, source: 'converted', warning: original.warning };
    throw new RequestError('MANIFEST_UNKNOWN', await this.#explain(target.where, original, record), {
      detail: { original: original.digest, conversion: record?.state ?? 'none' },
    });
  }

  /** The converted form of an original that a repository has, or null. */
  async byOriginal(target: Target, original: Digest): Promise<ServedManifest | null> {
    const record = await this.#catalog.conversions.get(original, this.#profile);
    if (record === null || !(await this.#catalog.isLinked(target.where, original))) return null;
    return this.#show(target, record);
  }

  /** Lets a repository that has the original show all parts of the converted image; null if there is none. */
  async #show(target: Target, { converted, digest }: ConversionRecord): Promise<ServedManifest | null> {
    if (converted === null) return null;
    const served = await this.#manifests.stored(converted.digest);
    if (served === null || (await this.#catalog.isLinked(target.where, converted.digest))) return served;
    if (this.#holdings !== null && !(await this.#holdings(target, digest))) return null;
    await this.#link(target.where, served);
    return served;
  }

  async #link(where: RepositoryName, served: ServedManifest): Promise<void> {
    const manifest = readManifest(served);
    if (manifest?.kind === 'index') {
      for (const { digest } of manifest.manifests) {
        const image = await this.#manifests.stored(digest);
        if (image !== null) await this.#link(where, image);
      }
    }
    await this.#catalog.link(where, ...partsOf(served), served.digest);
  }

  /** Null if upstream has no such tag: then `TAG_obd` may be a tag of its own. */
  async #original(target: Target, tag: string): Promise<ServedManifest | null> {
    try {
      return await this.#manifests.byTag(target, tag);
    } catch (error) {
      if (error instanceof RegistryError && error.code === 'ERR_REGISTRY_NOT_FOUND') return null;
      throw error;
    }
  }

  /** What went wrong may name another repository, which is none of this one's business where rights differ. */
  async #statusFor(where: RepositoryName, record: ConversionRecord): Promise<ConversionStatus> {
    const status = await conversionStatus(record, this.#catalog.conversions);
    if (this.#holdings === null || isSameRepository(record, where)) return status;
    return { ...status, error: status.errorCode };
  }

  async #explain(
    where: RepositoryName,
    original: ServedManifest,
    record: ConversionRecord | null,
  ): Promise<string> {
    const what = `the image ${original.digest}`;
    if (record === null) {
      return `${what} is not converted: ${whyNone(original)}`;
    }
    const { state, error, nextAttemptAt, layersDone, layersTotal, bytesDone, bytesTotal } =
      await this.#statusFor(where, record);
    switch (state) {
      case 'failed':
        return `the conversion of ${what} failed${nextAttemptAt === null ? '' : ` and is tried again at ${nextAttemptAt}`}: ${error}`;
      case 'left':
        return `${what} is left as it is: ${error}`;
      case 'running': {
        const percent = bytesTotal === 0 ? 0 : Math.floor((100 * bytesDone) / bytesTotal);
        return `${what} is being converted: ${percent} %, ${layersDone} of ${layersTotal} layers; try again soon`;
      }
      case 'queued':
        return `${what} waits for its conversion; try again soon`;
      case 'done':
        return `${what} was converted, but its converted manifest is gone from the store`;
    }
  }
}

function whyNone({ bytes, mediaType }: ServedManifest): string | null {
  try {
    return whyNotConverted(parseManifest(bytes, mediaType));
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

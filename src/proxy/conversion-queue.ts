import type { Logger } from 'pino';
import { imagesOf } from '../convert/image-index.ts';
import { whyLeftAsItIs } from '../convert/image-plan.ts';
import { OVERLAYBD_ARTIFACT_TYPE } from '../oci/annotations.ts';
import type { Digest } from '../oci/digest.ts';
import type { IndexManifest, Manifest } from '../oci/manifest.ts';
import { formatPlatform } from '../oci/platform.ts';
import type { Catalog, RepositoryName } from '../store/catalog.ts';
import type {
  ConversionProgress,
  ConversionRecord,
  ConversionRequest,
  ConvertedManifest,
} from '../store/conversion-table.ts';
import { tryToKeep } from './keep.ts';
import { readManifest, type ServedManifest } from './manifests.ts';
import { failureOf } from './retry-policy.ts';

/** Converts one image or index. What it makes is in the store when it resolves. */
export type Converter = (
  record: ConversionRecord,
  options: { signal: AbortSignal; onProgress: (progress: ConversionProgress) => void },
) => Promise<ConvertedManifest>;

/** Somebody pulled it. */
const ASKED = 1;
/** A platform of an index that was pulled. */
const NOT_ASKED = 0;
/** Time for a client to say which of an index's platforms it wants, before the others take their turn. */
const INDEX_DELAY_MS = 2_000;
/** So many processes may end while they convert an image before it is taken to be what ends them. */
const MAX_INTERRUPTIONS = 3;
const PROGRESS_INTERVAL_MS = 200;
const CATALOG_RETRY_MS = 5_000;

/**
 * Converts what is pulled, one image after the other, in the background. The queue is in the catalog: a
 * restart goes on where it was.
 */
export class ConversionQueue {
  readonly #catalog: Catalog;
  readonly #profile: string;
  readonly #policy: string;
  readonly #indexImages: number;
  readonly #convert: Converter;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  #wake = Promise.withResolvers<void>();
  #loop: Promise<void> | null = null;

  /**
   * @param parts.policy what failed under it is not tried again when it is pulled
   * @param parts.indexImages of an index with more images, none is queued unless it is pulled itself
   */
  constructor(parts: {
    catalog: Catalog;
    profile: string;
    policy: string;
    indexImages: number;
    convert: Converter;
    log: Logger;
  }) {
    this.#catalog = parts.catalog;
    this.#profile = parts.profile;
    this.#policy = parts.policy;
    this.#indexImages = parts.indexImages;
    this.#convert = parts.convert;
    this.#log = parts.log;
  }

  /** Begins to work. */
  start(): void {
    this.#loop = this.#run();
  }

  /** Gives up the running conversion, which is queued again, and waits until nothing of it runs. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('the proxy is being stopped'));
    await this.#loop;
  }

  /** Queues a manifest that was pulled. Cheap when that was done before; never fails: the pull goes on. */
  offer(where: RepositoryName, served: ServedManifest): void {
    try {
      this.#enqueue(where, served);
    } catch (error) {
      this.#log.error({ err: error, ...where, digest: served.digest }, 'an image could not be queued');
    }
  }

  /** Queues a failed conversion again because somebody asks for it; of an index, its failed images too. */
  retry(digest: Digest): void {
    this.#catalog.conversions.retry(digest, this.#profile, ASKED, Date.now());
    this.#wake.resolve();
  }

  #enqueue(where: RepositoryName, served: ServedManifest): void {
    const nowMs = Date.now();
    if (this.#isSettled(served.digest)) return;
    const manifest = readManifest(served);
    if (manifest === null || whyNotConverted(manifest) !== null) return;
    const base = {
      ...where,
      profile: this.#profile,
      policy: this.#policy,
      priority: ASKED,
      platform: null,
      notBeforeMs: nowMs,
    };
    const { digest } = served;
    if (manifest.kind === 'index') {
      const images = this.#imagesOf(manifest, where, nowMs);
      this.#catalog.conversions.enqueueIndex({ ...base, digest, kind: 'index' }, images, nowMs);
    } else {
      this.#catalog.conversions.enqueue({ ...base, digest, kind: 'image' }, nowMs);
    }
    this.#wake.resolve();
  }

  /** Whether to queue it would change nothing: large manifests are not read at each pull. */
  #isSettled(digest: Digest): boolean {
    const { conversions } = this.#catalog;
    const record = conversions.get(digest, this.#profile);
    switch (record?.state) {
      case 'done':
        return conversions
          .children(digest, this.#profile)
          .every((image) => image.state === 'done' || this.#staysFailed(image));
      case 'failed':
        return this.#staysFailed(record);
      case 'running':
        return true;
      default:
        return false;
    }
  }

  /** Whether a pull changes nothing about a failure: it is tried again by itself, or would end as it did. */
  #staysFailed({ state, nextAttemptMs, policy }: ConversionRecord): boolean {
    return state === 'failed' && (nextAttemptMs !== null || policy === this.#policy);
  }

  #imagesOf(index: IndexManifest, where: RepositoryName, nowMs: number): ConversionRequest[] {
    const images = imagesOf(index);
    // Its conversion says why it fails.
    if (images.length > this.#indexImages) return [];
    return images.map(({ digest, platform }) => ({
      ...where,
      digest,
      profile: this.#profile,
      policy: this.#policy,
      kind: 'image',
      platform: platform === undefined ? null : formatPlatform(platform),
      priority: NOT_ASKED,
      notBeforeMs: nowMs + INDEX_DELAY_MS,
    }));
  }

  async #run(): Promise<void> {
    const { conversions } = this.#catalog;
    let isFirst = true;
    // By this process when it could not write what became of it.
    let isLeftRunning = false;
    while (!this.#stop.signal.aborted) {
      try {
        if (isFirst) this.#takeOver();
        isFirst = false;
        if (isLeftRunning) conversions.requeueRunning(Date.now());
        isLeftRunning = false;
        const record = conversions.takeNext(this.#profile, Date.now());
        if (record === null) await this.#idle(conversions.nextStartMs(this.#profile));
        else await this.#work(record);
      } catch (error) {
        isLeftRunning = true;
        this.#log.error({ err: error }, 'the conversion queue cannot be read or written; trying again');
        await this.#idle(Date.now() + CATALOG_RETRY_MS);
      }
    }
  }

  /** What an earlier process was at when it was killed, or died of it. */
  #takeOver(): void {
    const code = 'ERR_PROXY_DIED';
    const message = `the proxy ended ${MAX_INTERRUPTIONS} times while it converted this image (out of memory?)`;
    const failure = { code, message, nextAttemptMs: null, policy: this.#policy, after: MAX_INTERRUPTIONS };
    this.#catalog.conversions.requeueInterrupted(failure, Date.now());
  }

  /** Until something is offered, the queue is stopped, or `untilMs`. */
  async #idle(untilMs: number | null): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#wake = Promise.withResolvers<void>();
    const { promise, resolve } = this.#wake;
    const onStop = () => resolve();
    this.#stop.signal.addEventListener('abort', onStop);
    const timer = untilMs === null ? null : setTimeout(resolve, Math.max(0, untilMs - Date.now()));
    await promise;
    this.#stop.signal.removeEventListener('abort', onStop);
    if (timer !== null) clearTimeout(timer);
  }

  async #work(record: ConversionRecord): Promise<void> {
    const { digest, profile, kind, upstream, repository, platform } = record;
    const { conversions } = this.#catalog;
    const log = this.#log.child({ conversion: digest, kind, upstream, repository, platform });
    const progress = new ProgressKeeper((latest) =>
      tryToKeep(log, () => conversions.setProgress(digest, profile, latest, Date.now())),
    );
    const startedMs = Date.now();
    log.info('conversion started');
    try {
      const converted = await this.#convert(record, {
        signal: this.#stop.signal,
        onProgress: (latest) => progress.report(latest),
      });
      progress.flush();
      this.#catalog.putManifest(converted.digest, converted.mediaType, converted.sizeBytes);
      conversions.setDone(digest, profile, converted, Date.now());
      log.info({ converted: converted.digest, ms: Date.now() - startedMs }, 'conversion done');
    } catch (error) {
      if (this.#stop.signal.aborted) {
        conversions.requeue(digest, profile, Date.now());
        return;
      }
      const nowMs = Date.now();
      const attempts = record.attempts + 1;
      const failure = failureOf(error, { attempts, policy: this.#policy, nowMs });
      conversions.setFailed(digest, profile, failure, nowMs);
      const { nextAttemptMs } = failure;
      const nextAttempt = nextAttemptMs === null ? null : new Date(nextAttemptMs).toISOString();
      log.warn({ err: error, attempts, nextAttempt }, 'conversion failed: the image is served as it is');
    }
  }
}

/** Why a manifest is left as it is, or null if it is converted. */
export function whyNotConverted(manifest: Manifest): string | null {
  if (manifest.kind === 'index') {
    if (manifest.artifactType === OVERLAYBD_ARTIFACT_TYPE)
      return 'its images are in the overlaybd format already';
    return imagesOf(manifest).length === 0 ? 'the index holds no images' : null;
  }
  return whyLeftAsItIs(manifest);
}

/** Keeps the catalog up to date, but not at every block. */
class ProgressKeeper {
  readonly #write: (progress: ConversionProgress) => void;
  #latest: ConversionProgress | null = null;
  #writtenMs = 0;

  constructor(write: (progress: ConversionProgress) => void) {
    this.#write = write;
  }

  report(progress: ConversionProgress): void {
    this.#latest = progress;
    if (Date.now() - this.#writtenMs >= PROGRESS_INTERVAL_MS) this.flush();
  }

  flush(): void {
    if (this.#latest === null) return;
    this.#write(this.#latest);
    this.#latest = null;
    this.#writtenMs = Date.now();
  }
}

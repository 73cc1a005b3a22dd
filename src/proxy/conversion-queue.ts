import type { Logger } from 'pino';
import { imagesOf } from '../convert/image-index.ts';
import { whyLeftAsItIs } from '../convert/image-plan.ts';
import { OVERLAYBD_ARTIFACT_TYPE } from '../oci/annotations.ts';
import type { Digest } from '../oci/digest.ts';
import type { IndexManifest, Manifest } from '../oci/manifest.ts';
import { formatPlatform } from '../oci/platform.ts';
import type { Catalog, RepositoryName } from '../store/catalog.ts';
import type {
  ConversionFailure,
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
/** A conversion whose process says nothing for so long is taken up by another one. */
const LEASE_MS = 30_000;
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

  /** Queues a manifest that was pulled. Cheap when that was done before; never rejects: the pull goes on. */
  async offer(where: RepositoryName, served: ServedManifest): Promise<void> {
    try {
      await this.#enqueue(where, served);
    } catch (error) {
      this.#log.error({ err: error, ...where, digest: served.digest }, 'an image could not be queued');
    }
  }

  /** Queues a failed conversion again because somebody asks for it; of an index, its failed images too. */
  async retry(digest: Digest): Promise<void> {
    await this.#catalog.conversions.retry(digest, this.#profile, ASKED, Date.now());
    this.#wake.resolve();
  }

  async #enqueue(where: RepositoryName, served: ServedManifest): Promise<void> {
    const nowMs = Date.now();
    if (await this.#isSettled(served.digest)) return;
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
      await this.#catalog.conversions.enqueueIndex({ ...base, digest, kind: 'index' }, images, nowMs);
    } else {
      await this.#catalog.conversions.enqueue({ ...base, digest, kind: 'image' }, nowMs);
    }
    this.#wake.resolve();
  }

  /** Whether to queue it would change nothing: large manifests are not read at each pull. */
  async #isSettled(digest: Digest): Promise<boolean> {
    const { conversions } = this.#catalog;
    const record = await conversions.get(digest, this.#profile);
    switch (record?.state) {
      case 'done':
        return (await conversions.children(digest, this.#profile)).every(
          (image) => image.state === 'done' || this.#staysFailed(image),
        );
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
    while (!this.#stop.signal.aborted) {
      // What is offered from here on is heard.
      this.#wake = Promise.withResolvers<void>();
      try {
        const nowMs = Date.now();
        await conversions.giveUpInterrupted(this.#interrupted(), nowMs);
        const record = await conversions.takeNext(this.#profile, nowMs + LEASE_MS, nowMs);
        if (record === null) await this.#idle(await conversions.nextStartMs(this.#profile));
        else await this.#work(record);
      } catch (error) {
        this.#log.error({ err: error }, 'the conversion queue cannot be read or written; trying again');
        await this.#idle(Date.now() + CATALOG_RETRY_MS);
      }
    }
  }

  /** What becomes of a conversion that one process after the other died of. */
  #interrupted(): ConversionFailure & { after: number } {
    const code = 'ERR_PROXY_DIED';
    const message = `the proxy ended ${MAX_INTERRUPTIONS} times while it converted this image (out of memory?)`;
    return { code, message, nextAttemptMs: null, policy: this.#policy, after: MAX_INTERRUPTIONS };
  }

  /** Until something is offered, the queue is stopped, or `untilMs`. */
  async #idle(untilMs: number | null): Promise<void> {
    if (this.#stop.signal.aborted) return;
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
    const lease = new KeptLease(
      () => conversions.renew(digest, profile, Date.now() + LEASE_MS),
      this.#stop.signal,
      log,
    );
    try {
      const converted = await this.#convert(record, {
        signal: lease.signal,
        onProgress: (latest) => progress.report(latest),
      });
      await progress.flush();
      await this.#catalog.putManifest(converted.digest, converted.mediaType, converted.sizeBytes);
      await conversions.setDone(digest, profile, converted, Date.now());
      log.info({ converted: converted.digest, ms: Date.now() - startedMs }, 'conversion done');
    } catch (error) {
      if (this.#stop.signal.aborted) {
        await conversions.requeue(digest, profile, Date.now());
        return;
      }
      if (lease.signal.aborted) {
        log.warn('the conversion was given up: another process has taken it');
        return;
      }
      const nowMs = Date.now();
      const attempts = record.attempts + 1;
      const failure = failureOf(error, { attempts, policy: this.#policy, nowMs });
      await conversions.setFailed(digest, profile, failure, nowMs);
      const { nextAttemptMs } = failure;
      const nextAttempt = nextAttemptMs === null ? null : new Date(nextAttemptMs).toISOString();
      log.warn({ err: error, attempts, nextAttempt }, 'conversion failed: the image is served as it is');
    } finally {
      lease.end();
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

/** A conversion's lease, renewed until it ends, or the conversion was lost to another process. */
class KeptLease {
  /** Fires when the lease is lost, or the queue is stopped. */
  readonly signal: AbortSignal;
  readonly #timer: NodeJS.Timeout;

  constructor(renew: () => Promise<boolean>, stop: AbortSignal, log: Logger) {
    const lost = new AbortController();
    this.signal = AbortSignal.any([stop, lost.signal]);
    this.#timer = setInterval(() => {
      renew().then(
        (isOurs) => {
          if (!isOurs) lost.abort(new Error('another process converts this image now'));
        },
        (error: unknown) => log.warn({ err: error }, "a conversion's lease could not be renewed"),
      );
    }, LEASE_MS / 3);
  }

  end(): void {
    clearInterval(this.#timer);
  }
}

/** Keeps the catalog up to date, but not at every block. */
class ProgressKeeper {
  readonly #write: (progress: ConversionProgress) => Promise<void>;
  #latest: ConversionProgress | null = null;
  #writtenMs = 0;
  #writing: Promise<void> = Promise.resolve();

  /** `write` does not reject. */
  constructor(write: (progress: ConversionProgress) => Promise<void>) {
    this.#write = write;
  }

  report(progress: ConversionProgress): void {
    this.#latest = progress;
    if (Date.now() - this.#writtenMs >= PROGRESS_INTERVAL_MS) void this.flush();
  }

  /** Resolves when the latest is written. */
  flush(): Promise<void> {
    const latest = this.#latest;
    if (latest === null) return this.#writing;
    this.#latest = null;
    this.#writtenMs = Date.now();
    this.#writing = this.#writing.then(() => this.#write(latest));
    return this.#writing;
  }
}

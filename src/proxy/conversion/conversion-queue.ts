import type { Logger } from 'pino';
import { imagesOf } from '../../convert/image-index.ts';
import { whyLeftAsItIs } from '../../convert/image-plan.ts';
import { OVERLAYBD_ARTIFACT_TYPE } from '../../oci/annotations.ts';
import type { Digest } from '../../oci/digest.ts';
import type { IndexManifest, Manifest } from '../../oci/manifest.ts';
import { formatPlatform } from '../../oci/platform.ts';
import type { Catalog, RepositoryName } from '../../store/catalog.ts';
import { PRIORITY } from '../../store/conversion-priority.ts';
import {
  type ConversionFailure,
  type ConversionProgress,
  type ConversionRecord,
  type ConversionRequest,
  type ConvertedManifest,
  LEFT_CODE,
} from '../../store/conversion-table.ts';
import { tryToKeep } from '../content/keep.ts';
import { readManifest, type ServedManifest } from '../content/manifests.ts';
import type { ConversionNews } from './conversion-news.ts';
import type { ConversionSelection } from './conversion-selection.ts';
import { KeptLease } from './kept-lease.ts';
import { failureOf } from './retry-policy.ts';

/** Converts one image or index. What it makes is in the store when it resolves. */
export type Converter = (
  record: ConversionRecord,
  options: {
    signal: AbortSignal;
    onProgress: (progress: ConversionProgress) => void;
    /** Among those that run; may grow meanwhile. */
    priority: () => number;
  },
) => Promise<MadeManifest>;

export interface MadeManifest extends ConvertedManifest {
  /** What it names, its chunk tables included. */
  readonly parts: readonly Digest[];
}

/** Time for a client to say which of an index's platforms it wants, before the others take their turn. */
const INDEX_DELAY_MS = 2_000;
/** So many processes may end while they convert an image before it is taken to be what ends them. */
const MAX_INTERRUPTIONS = 3;
const PROGRESS_INTERVAL_MS = 200;
const CATALOG_RETRY_MS = 5_000;
/** Timers know no time much further away: they take it for now. */
const MAX_IDLE_MS = 24 * 60 * 60_000;

interface Running {
  priority: number;
  /** Resolves when nothing of it runs any more. */
  over: Promise<void>;
}

/**
 * Converts what is pulled, a few images at a time, in the background. The queue is in the catalog: a restart goes on
 * where it was, and processes that share the catalog share the work.
 */
export class ConversionQueue {
  readonly #catalog: Catalog;
  readonly #profile: string;
  readonly #policy: string;
  readonly #selection: ConversionSelection;
  readonly #indexImages: number;
  readonly #convert: Converter;
  readonly #onDone: (made: MadeManifest) => Promise<void>;
  readonly #images: number;
  readonly #leaseMs: number;
  readonly #pollMs: number | null;
  readonly #news: ConversionNews;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #running = new Map<Digest, Running>();
  #wake = Promise.withResolvers<void>();
  #loop: Promise<void> | null = null;

  /**
   * @param parts.policy what failed under it is not tried again when it is pulled
   * @param parts.indexImages of an index with more images, none is queued unless it is pulled itself
   * @param parts.images so many are converted at a time, and one more that a node waits for
   * @param parts.leaseMs a conversion whose process says nothing for so long is taken up by another one
   * @param parts.pollMs how often to look for what other processes have queued; null where there are none
   * @param parts.onDone called when the catalog has it that an image is converted
   * @param parts.news is told of each layer and each end
   */
  constructor(parts: {
    catalog: Catalog;
    profile: string;
    policy: string;
    selection: ConversionSelection;
    indexImages: number;
    convert: Converter;
    onDone: (made: MadeManifest) => Promise<void>;
    images: number;
    leaseMs: number;
    pollMs: number | null;
    news: ConversionNews;
    log: Logger;
  }) {
    this.#catalog = parts.catalog;
    this.#profile = parts.profile;
    this.#policy = `${parts.policy}-${parts.selection.id}`;
    this.#selection = parts.selection;
    this.#indexImages = parts.indexImages;
    this.#convert = parts.convert;
    this.#onDone = parts.onDone;
    this.#images = parts.images;
    this.#leaseMs = parts.leaseMs;
    this.#pollMs = parts.pollMs;
    this.#news = parts.news;
    this.#log = parts.log;
  }

  /** Begins to work. */
  start(): void {
    this.#loop = this.#run();
  }

  /** Gives up the running conversions, which are queued again, and waits until nothing of them runs. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('the proxy is being stopped'));
    await this.#loop;
  }

  /**
   * Queues a manifest. Cheap when that was done before; never rejects: the pull goes on.
   * @param priority see {@link PRIORITY}; of one that is there already, the greater one counts
   */
  async offer(
    where: RepositoryName,
    served: ServedManifest,
    priority: number = PRIORITY.pulled,
  ): Promise<void> {
    try {
      await this.#enqueue(where, served, priority);
      // Not before: it may have begun meanwhile, as what it was worth till then.
      const running = this.#running.get(served.digest);
      if (running !== undefined) running.priority = Math.max(running.priority, priority);
    } catch (error) {
      this.#log.error({ err: error, ...where, digest: served.digest }, 'an image could not be queued');
    }
  }

  /** Queues a failed conversion again because somebody asks for it; of an index, its failed images too. */
  async retry(digest: Digest): Promise<void> {
    await this.#catalog.conversions.retry(digest, this.#profile, PRIORITY.pulled, Date.now());
    this.#wake.resolve();
  }

  async #enqueue(where: RepositoryName, served: ServedManifest, priority: number): Promise<void> {
    const nowMs = Date.now();
    const { digest } = served;
    const record = await this.#catalog.conversions.get(digest, this.#profile);
    if (await this.#isSettled(record)) return;
    const tags = this.#selection.hasPatterns ? await this.#catalog.tagsOf(where, digest) : [];
    const whyLeft = this.#selection.whyLeft(where, tags);
    if (this.#isLeft(record) && (whyLeft !== null || (tags.length === 0 && isOf(record, where)))) return;
    const manifest = readManifest(served);
    if (manifest === null || whyNotConverted(manifest) !== null) return;
    const base = {
      ...where,
      profile: this.#profile,
      policy: this.#policy,
      priority,
      platform: null,
      notBeforeMs: nowMs,
    };
    const { conversions } = this.#catalog;
    const images = manifest.kind === 'index' ? this.#imagesOf(manifest, where, nowMs) : [];
    const request = { ...base, digest, kind: manifest.kind === 'index' ? 'index' : 'image' } as const;
    if (whyLeft !== null) {
      // Its images too: clients ask for them by digests that no tag names.
      for (const each of [request, ...images.map(({ image }) => image)]) {
        await conversions.leave(each, whyLeft, nowMs);
      }
      return;
    }
    if (request.kind === 'index') {
      const wanted = images.filter(({ isWanted }) => isWanted).map(({ image }) => image);
      const unasked = images.filter(({ isWanted }) => !isWanted).map(({ image }) => image.digest);
      await conversions.enqueueIndex(request, wanted, unasked, nowMs);
    } else {
      await conversions.enqueue(request, nowMs);
    }
    this.#wake.resolve();
  }

  /** Whether it was left as it is by what is configured now. */
  #isLeft(record: ConversionRecord | null): record is ConversionRecord {
    return record !== null && record.errorCode === LEFT_CODE && record.policy === this.#policy;
  }

  /** Whether to queue it would change nothing: large manifests are not read at each pull. */
  async #isSettled(record: ConversionRecord | null): Promise<boolean> {
    if (record === null || record.errorCode === LEFT_CODE) return false;
    const { conversions } = this.#catalog;
    switch (record.state) {
      case 'done':
        return (await conversions.children(record.digest, this.#profile)).every(
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

  #imagesOf(
    index: IndexManifest,
    where: RepositoryName,
    nowMs: number,
  ): { readonly image: ConversionRequest; readonly isWanted: boolean }[] {
    const images = imagesOf(index);
    // Its conversion says why it fails.
    if (images.length > this.#indexImages) return [];
    return images.map(({ digest, platform }) => ({
      isWanted: this.#selection.wants(platform),
      image: {
        ...where,
        digest,
        profile: this.#profile,
        policy: this.#policy,
        kind: 'image',
        platform: platform === undefined ? null : formatPlatform(platform),
        priority: PRIORITY.otherPlatform,
        notBeforeMs: nowMs + INDEX_DELAY_MS,
      },
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
        const leaseUntilMs = nowMs + this.#leaseMs;
        const record = await this.#takeNext(leaseUntilMs, nowMs);
        if (record !== null) await this.#begin(record, leaseUntilMs);
        // When a place is free again, or a node waits, it is woken.
        else if (this.#running.size >= this.#images) await this.#idle(null);
        else await this.#idle(await conversions.nextStartMs(this.#profile));
      } catch (error) {
        this.#log.error({ err: error }, 'the conversion queue cannot be read or written; trying again');
        await this.#idle(Date.now() + CATALOG_RETRY_MS);
      }
    }
    await Promise.all([...this.#running.values()].map(({ over }) => over));
  }

  /** Null also if all places are taken: then there is one more, for an image that a node waits for. */
  async #takeNext(leaseUntilMs: number, nowMs: number): Promise<ConversionRecord | null> {
    const taken = this.#running.size;
    if (taken > this.#images) return null;
    const leastPriority = taken < this.#images ? null : PRIORITY.waitingNode;
    return this.#catalog.conversions.takeNext(this.#profile, leaseUntilMs, nowMs, leastPriority);
  }

  async #begin(record: ConversionRecord, leaseUntilMs: number): Promise<void> {
    const { digest, priority } = record;
    // Its lease has ended though we were at it: that is being given up.
    await this.#running.get(digest)?.over;
    const running: Running = { priority, over: Promise.resolve() };
    this.#running.set(digest, running);
    running.over = this.#work(record, leaseUntilMs, running)
      .catch((error: unknown) => {
        this.#log.error({ err: error, conversion: digest }, 'the outcome of a conversion cannot be written');
      })
      .finally(() => {
        this.#running.delete(digest);
        this.#news.announce();
        this.#wake.resolve();
      });
  }

  /** What becomes of a conversion that one process after the other died of. */
  #interrupted(): ConversionFailure & { after: number } {
    const code = 'ERR_PROXY_DIED';
    const message = `the proxy ended ${MAX_INTERRUPTIONS} times while it converted this image (out of memory?)`;
    return { code, message, nextAttemptMs: null, policy: this.#policy, after: MAX_INTERRUPTIONS };
  }

  /** Until something is offered or over, the queue is stopped, or `nextMs`; where others queue too, not for long. */
  async #idle(nextMs: number | null): Promise<void> {
    if (this.#stop.signal.aborted) return;
    const lookMs = this.#pollMs === null ? null : Date.now() + this.#pollMs * (0.75 + Math.random() / 2);
    const untilMs = nextMs === null || lookMs === null ? (nextMs ?? lookMs) : Math.min(nextMs, lookMs);
    const { promise, resolve } = this.#wake;
    const onStop = () => resolve();
    this.#stop.signal.addEventListener('abort', onStop);
    const timer =
      untilMs === null ? null : setTimeout(resolve, Math.min(MAX_IDLE_MS, Math.max(0, untilMs - Date.now())));
    await promise;
    this.#stop.signal.removeEventListener('abort', onStop);
    if (timer !== null) clearTimeout(timer);
  }

  async #work(record: ConversionRecord, leaseUntilMs: number, running: Readonly<Running>): Promise<void> {
    const { digest, profile, kind, upstream, repository, platform } = record;
    const { conversions } = this.#catalog;
    const log = this.#log.child({ conversion: digest, kind, upstream, repository, platform });
    const progress = new ProgressKeeper((latest) =>
      tryToKeep(log, () => conversions.setProgress(digest, profile, latest, Date.now())),
    );
    const startedMs = Date.now();
    log.info('conversion started');
    this.#news.announce();
    const lease = new KeptLease({
      untilMs: leaseUntilMs,
      renew: (untilMs) => conversions.renew(digest, profile, untilMs),
      leaseMs: this.#leaseMs,
      log,
    });
    let layersDone = 0;
    try {
      const converted = await this.#convert(record, {
        signal: AbortSignal.any([this.#stop.signal, lease.signal]),
        onProgress: (latest) => {
          progress.report(latest);
          if (latest.layersDone > layersDone) this.#news.announce();
          layersDone = latest.layersDone;
        },
        priority: () => running.priority,
      });
      await progress.flush();
      const { mediaType, sizeBytes, parts } = converted;
      await this.#catalog.putManifest(converted.digest, mediaType, sizeBytes, parts);
      await conversions.setDone(digest, profile, converted, Date.now());
      await this.#onDone(converted);
      log.info({ converted: converted.digest, ms: Date.now() - startedMs }, 'conversion done');
    } catch (error) {
      if (this.#stop.signal.aborted) {
        await conversions.requeue(digest, profile, Date.now());
        return;
      }
      if (lease.signal.aborted) {
        log.warn('the conversion was given up: another process may have taken it');
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
      await lease.end();
    }
  }
}

/** Without a tag of its own there, it was left with its index. */
function isOf(record: RepositoryName, { upstream, repository }: RepositoryName): boolean {
  return record.upstream === upstream && record.repository === repository;
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

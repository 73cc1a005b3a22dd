import { randomUUID } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';
import type { Logger } from 'pino';
import { isDigest } from '../../oci/digest.ts';
import type { Descriptor, ImageManifest, Platform } from '../../oci/manifest.ts';
import { isImageManifest } from '../../oci/media-types.ts';
import { isAttestation, selectPlatform } from '../../oci/platform.ts';
import { formatReference, parseReference } from '../../oci/reference.ts';
import { PRIORITY } from '../../store/conversion-priority.ts';
import type { Blobs } from '../content/blobs.ts';
import { type Manifests, readManifest, type ServedManifest } from '../content/manifests.ts';
import type { ConversionQueue } from '../conversion/conversion-queue.ts';
import type { Target, Upstreams } from '../upstream/upstreams.ts';

/** What somebody waits for goes first: a preheating has few downloads at a time. */
const IMAGES_AT_ONCE = 2;
const BLOBS_AT_ONCE = 3;
const MAX_JOBS = 1000;

export interface PreheatedImage {
  readonly image: string;
  readonly state: 'queued' | 'running' | 'done' | 'failed';
  readonly blobsDone: number;
  readonly blobsTotal: number;
  readonly bytesDone: number;
  readonly bytesTotal: number;
  readonly error: string | null;
}

export interface PreheatJob {
  readonly id: string;
  readonly isOver: boolean;
  readonly images: readonly PreheatedImage[];
}

export interface PreheaterParts {
  readonly upstreams: Upstreams;
  readonly manifests: Manifests;
  readonly blobs: Blobs;
  /** Null where nothing is converted. */
  readonly queue: Pick<ConversionQueue, 'offer'> | null;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

type Progress = { -readonly [Key in keyof PreheatedImage]: PreheatedImage[Key] };

/** Pulls images into the cache before anybody asks for them, and queues their conversion. Its jobs end with the process. */
export class Preheater {
  readonly #parts: PreheaterParts;
  readonly #jobs = new LRUCache<string, Progress[]>({
    max: MAX_JOBS,
  });
  readonly #imageTurn = pLimit(IMAGES_AT_ONCE);
  readonly #blobTurn = pLimit(BLOBS_AT_ONCE);
  readonly #running = new Set<Promise<void>>();

  constructor(parts: PreheaterParts) {
    this.#parts = parts;
  }

  /**
   * @param platforms of images that have several; all of them if none is named
   * @throws OciError, RequestError for what can be no image of an upstream; then nothing was begun
   */
  start(images: readonly string[], platforms: readonly Platform[]): PreheatJob {
    const targets = images.map((text) => this.#targetOf(text));
    const id = randomUUID();
    const progress = targets.map(({ one }) => one);
    this.#jobs.set(id, progress);
    for (const { target, reference, one } of targets) {
      const work = this.#imageTurn(() => this.#pull(target, reference, platforms, one)).finally(() =>
        this.#running.delete(work),
      );
      this.#running.add(work);
    }
    return this.#job(id, progress);
  }

  get(id: string): PreheatJob | null {
    const progress = this.#jobs.get(id);
    return progress === undefined ? null : this.#job(id, progress);
  }

  /** Resolves when nothing runs: its signal ends it. */
  async idle(): Promise<void> {
    await Promise.all(this.#running);
  }

  #job(id: string, images: readonly PreheatedImage[]): PreheatJob {
    return { id, isOver: images.every(({ state }) => state === 'done' || state === 'failed'), images };
  }

  #targetOf(text: string): { target: Target; reference: string; one: Progress } {
    const parsed = parseReference(text);
    const target = this.#parts.upstreams.of({ upstream: parsed.registry, repository: parsed.repository });
    const done = { blobsDone: 0, blobsTotal: 0, bytesDone: 0, bytesTotal: 0 };
    const one: Progress = { image: formatReference(parsed), state: 'queued', ...done, error: null };
    return { target, reference: parsed.digest ?? parsed.tag ?? 'latest', one };
  }

  async #pull(
    target: Target,
    reference: string,
    platforms: readonly Platform[],
    progress: Progress,
  ): Promise<void> {
    const { log, signal } = this.#parts;
    progress.state = 'running';
    try {
      signal.throwIfAborted();
      const served = await this.#manifest(target, reference);
      const images = await this.#imagesOf(target, served, platforms);
      const blobs = new Map(images.flatMap(partsOf).map((blob) => [blob.digest, blob]));
      progress.blobsTotal = blobs.size;
      progress.bytesTotal = [...blobs.values()].reduce((sum, { size }) => sum + size, 0);
      const pulled = await Promise.allSettled(
        [...blobs.values()].map(({ digest, size }) =>
          this.#blobTurn(async () => {
            const source = await this.#parts.blobs.whole(target, digest, signal);
            await source.close();
            progress.blobsDone++;
            progress.bytesDone += size;
          }),
        ),
      );
      const failure = pulled.find((each) => each.status === 'rejected');
      if (failure !== undefined) throw failure.reason;
      await this.#parts.queue?.offer(target.where, served, PRIORITY.preheat);
      progress.state = 'done';
    } catch (error) {
      progress.state = 'failed';
      progress.error = error instanceof Error ? error.message : String(error);
      log.warn({ err: error, image: progress.image }, 'an image could not be preheated');
    }
  }

  #manifest(target: Target, reference: string): Promise<ServedManifest> {
    const { manifests } = this.#parts;
    return isDigest(reference) ? manifests.byDigest(target, reference) : manifests.byTag(target, reference);
  }

  async #imagesOf(
    target: Target,
    served: ServedManifest,
    platforms: readonly Platform[],
  ): Promise<ImageManifest[]> {
    const manifest = readManifest(served);
    if (manifest === null) return [];
    if (manifest.kind !== 'index') return [manifest];
    const wanted =
      platforms.length === 0
        ? manifest.manifests.filter((each) => isImageManifest(each.mediaType) && !isAttestation(each))
        : platforms.map((platform) => selectPlatform(manifest, platform));
    const images: ImageManifest[] = [];
    for (const { digest } of wanted) {
      const image = readManifest(await this.#parts.manifests.byDigest(target, digest));
      if (image !== null && image.kind !== 'index') images.push(image);
    }
    return images;
  }
}

/** What a runtime would fetch: not what stands elsewhere. */
function partsOf({ config, layers }: ImageManifest): Descriptor[] {
  return [config, ...layers].filter(({ urls }) => urls === undefined);
}

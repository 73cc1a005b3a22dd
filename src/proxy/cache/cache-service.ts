import type { Logger } from 'pino';
import type { BlobStore } from '../../store/blob-store.ts';
import type { Catalog } from '../../store/catalog.ts';
import type { StoreError } from '../../store/errors.ts';
import { RecordedBlobStore } from '../../store/recorded-blob-store.ts';
import { UseRecorder } from '../../store/use-recorder.ts';
import { type CacheConfig, freeBytesOf, limitsOf, verifyEveryMsOf } from './cache-config.ts';
import { type InventoryParts, takeInventory } from './cache-inventory.ts';
import { GarbageCollector } from './garbage-collector.ts';
import { Scrubber, type ScrubberParts } from './scrubber.ts';

export interface CacheServiceParts {
  readonly store: BlobStore;
  readonly catalog: Catalog;
  readonly config: () => CacheConfig;
  /** On the file system with the blobs; null if they are on none. */
  readonly directory: string | null;
  readonly log: Logger;
}

/** How much was removed since the start. */
export interface CacheCounts {
  readonly collections: number;
  readonly freedBytes: number;
}

/** What is done about the cache in the background: who uses what, cleaning up, checking. */
export class CacheService {
  /** The store for all that serves and converts. */
  readonly store: BlobStore;
  readonly collector: GarbageCollector;
  readonly recorder: UseRecorder;
  readonly #parts: CacheServiceParts;
  readonly #upkeep: InventoryParts & ScrubberParts;
  readonly #scrubber: Scrubber;
  readonly #stop = new AbortController();
  readonly #work: Promise<void>[] = [];
  #collections = 0;
  #freedBytes = 0;

  constructor(parts: CacheServiceParts) {
    const { store, catalog, config, directory, log } = parts;
    const { signal } = this.#stop;
    this.#parts = parts;
    this.recorder = new UseRecorder(catalog.blobs, (error) =>
      log.error({ err: error }, 'the use of blobs cannot be kept'),
    );
    this.collector = new GarbageCollector({
      ...{ store, catalog, log, signal, recorder: this.recorder },
      limits: () => limitsOf(config(), directory),
      freeBytes: async () => (directory === null ? null : freeBytesOf(directory)),
      onRun: (freedBytes) => {
        this.#collections++;
        this.#freedBytes += freedBytes;
      },
    });
    this.#upkeep = { store, catalog, log, signal, forget: (digest) => this.collector.forget(digest) };
    const scrubber = new Scrubber(this.#upkeep);
    this.#scrubber = scrubber;
    this.store = new RecordedBlobStore(store, this.recorder, (digest) => scrubber.suspect(digest));
  }

  get counts(): CacheCounts {
    return { collections: this.#collections, freedBytes: this.#freedBytes };
  }

  /** Begins to work in the background. */
  start(): void {
    this.#work.push(this.#run());
  }

  /** A blob could not be kept: room is made if that is what it takes. */
  notKept({ code }: StoreError, wantedBytes: number): void {
    // What is in a bucket is not in the way of what this machine's disk has no room for.
    const full = this.#parts.directory === null ? 'ERR_STORE_BUCKET_FULL' : 'ERR_STORE_FULL';
    if (code === full) this.collector.makeRoom(wantedBytes);
  }

  /** Ends what runs in the background, and writes down what was used. */
  async close(): Promise<void> {
    this.#stop.abort(new Error('the proxy is being stopped'));
    await Promise.all(this.#work);
    await this.#scrubber.idle();
    await this.recorder.close();
  }

  async #run(): Promise<void> {
    const { config, directory, log } = this.#parts;
    const { signal } = this.#stop;
    try {
      await takeInventory(this.#upkeep);
    } catch (error) {
      if (!signal.aborted) log.error({ err: error }, 'the cache cannot be listed');
    }
    await Promise.all([
      this.collector.every(() => config().intervalMs),
      this.#scrubber.every(() => verifyEveryMsOf(config(), directory)),
    ]);
  }
}

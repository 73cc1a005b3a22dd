import { setTimeout as sleep } from 'node:timers/promises';
import pLimit from 'p-limit';
import pRetry from 'p-retry';
import type { Logger } from 'pino';
import type { OpenDevice } from '../image/device.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';
import { imageName } from './node-status.ts';

export interface CompletionSettings {
  /** Of all images together. */
  readonly bytesPerSecond: number;
  /** After an image was opened, while its container starts. */
  readonly delayMs: number;
}

/** After the source of an image failed; doubled each time. */
const FIRST_RETRY_MS = 1_000;
const MAX_RETRY_MS = 5 * 60_000;

/**
 * Fetches what is missing of opened images, one after the other, so that they need no proxy any more. One whose source
 * fails makes way for the others, and is tried again later.
 */
export class BackgroundCompletion {
  readonly #settings: CompletionSettings;
  readonly #logger: Pick<Logger, 'info' | 'warn'>;
  readonly #oneByOne = pLimit(1);
  readonly #closed = new AbortController();

  constructor(settings: CompletionSettings, logger: Pick<Logger, 'info' | 'warn'>) {
    this.#settings = settings;
    this.#logger = logger;
  }

  /** Begins later, and ends when the device is closed. */
  add(chain: LazyChain, opened: Pick<OpenDevice, 'complete'>): void {
    // This was closed meanwhile.
    this.#complete(imageName(chain), opened).catch(() => {});
  }

  close(): void {
    this.#closed.abort();
  }

  async #complete(image: string, opened: Pick<OpenDevice, 'complete'>): Promise<void> {
    const { bytesPerSecond, delayMs } = this.#settings;
    const { signal } = this.#closed;
    await sleep(delayMs, undefined, { signal, ref: false });
    const attempt = () => this.#oneByOne(() => opened.complete({ bytesPerSecond, signal }));
    const result = await pRetry(attempt, {
      retries: Number.POSITIVE_INFINITY,
      minTimeout: FIRST_RETRY_MS,
      maxTimeout: MAX_RETRY_MS,
      unref: true,
      signal,
      onFailedAttempt: ({ error, retryDelay }) =>
        this.#logger.warn(
          { err: error, image, retryMs: retryDelay },
          'the rest of an image cannot be fetched now',
        ),
    });
    if (result === 'complete') this.#logger.info({ image }, 'an image is here as a whole');
    if (result === 'no-room') {
      this.#logger.warn({ image }, 'the cache has no room for the whole of an image: cache.maxBytes');
    }
  }
}

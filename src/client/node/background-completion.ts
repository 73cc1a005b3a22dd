import { setTimeout as sleep } from 'node:timers/promises';
import pLimit from 'p-limit';
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

/** Fetches what is missing of opened images, one after the other, so that they need no proxy any more. */
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
    const { bytesPerSecond, delayMs } = this.#settings;
    const { signal } = this.#closed;
    const work = async () => {
      await sleep(delayMs, undefined, { signal, ref: false });
      const result = await this.#oneByOne(() => opened.complete({ bytesPerSecond, signal }));
      const image = imageName(chain);
      if (result === 'complete') this.#logger.info({ image }, 'an image is here as a whole');
      else this.#logger.warn({ image }, 'the cache has no room for the whole of an image: cache.maxBytes');
    };
    // It was closed meanwhile.
    work().catch(() => {});
  }

  close(): void {
    this.#closed.abort();
  }
}

import { setTimeout as delay } from 'node:timers/promises';

/** Wakes who waits for what conversions bring about: a layer, an end, a failure. */
export class ConversionNews {
  readonly #closed = new AbortController();
  #next = Promise.withResolvers<void>();

  /** Says that there is something new, whatever it is. */
  announce(): void {
    const { resolve } = this.#next;
    this.#next = Promise.withResolvers<void>();
    resolve();
  }

  /** To be got before one looks how things stand, and waited for after: so nothing between is missed. */
  get next(): Promise<void> {
    return this.#next.promise;
  }

  /** Nobody waits any longer: answers end. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  close(): void {
    this.#closed.abort(new Error('the proxy is being stopped'));
  }

  /** Resolves at the news, after `maxMs`, when the signal fires, or when all is over. */
  async waitFor(news: Promise<void>, maxMs: number, signal: AbortSignal): Promise<void> {
    const over = new AbortController();
    const ends = AbortSignal.any([over.signal, signal, this.closed]);
    await Promise.race([news, delay(maxMs, undefined, { signal: ends }).catch(() => {})]);
    over.abort();
  }
}

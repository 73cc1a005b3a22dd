import type { Logger } from 'pino';

/** Of the lease's time: so that a renewal or two may fail. */
const RENEWAL_PART = 1 / 3;

/** A lease that was taken, and is renewed until {@link end}. */
export class KeptLease {
  /** Fires when somebody else may have it: at the latest when it has ended without being renewed. */
  readonly signal: AbortSignal;
  readonly #renewals: NodeJS.Timeout;
  #expiry: NodeJS.Timeout;
  #renewing: Promise<void> | null = null;

  /**
   * @param untilMs when it ends unless it is renewed
   * @param renew false if it is no longer ours
   */
  constructor({
    untilMs,
    renew,
    leaseMs,
    log,
  }: {
    untilMs: number;
    renew: (untilMs: number) => Promise<boolean>;
    leaseMs: number;
    log: Logger;
  }) {
    const lost = new AbortController();
    this.signal = lost.signal;
    const lose = () => {
      this.#stopTimers();
      lost.abort(new Error('another process may be at the same'));
    };
    let endMs = untilMs;
    const watch = () => {
      const leftMs = endMs - Date.now();
      if (leftMs <= 0) return lose();
      this.#expiry = setTimeout(watch, leftMs);
    };
    this.#expiry = setTimeout(watch, untilMs - Date.now());
    this.#renewals = setInterval(() => {
      // One at a time: none is to be under way when the lease is given back.
      if (this.#renewing !== null) return;
      const nextMs = Date.now() + leaseMs;
      this.#renewing = renew(nextMs)
        .then(
          (isOurs) => {
            if (isOurs) endMs = nextMs;
            else lose();
          },
          (error: unknown) => log.warn({ err: error }, 'a lease could not be renewed'),
        )
        .finally(() => {
          this.#renewing = null;
        });
    }, leaseMs * RENEWAL_PART);
  }

  /** Resolves when it is not renewed any more; giving it back is the caller's. */
  async end(): Promise<void> {
    this.#stopTimers();
    await this.#renewing;
  }

  #stopTimers(): void {
    clearInterval(this.#renewals);
    clearTimeout(this.#expiry);
  }
}

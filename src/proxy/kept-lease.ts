import type { Logger } from 'pino';

/** Of the lease's time: so that a renewal or two may fail. */
const RENEWAL_PART = 1 / 3;

/** A lease that was taken, and is renewed until {@link end}. */
export class KeptLease {
  /** Fires when somebody else may have it: at the latest when it has ended without being renewed. */
  readonly signal: AbortSignal;
  readonly #timer: NodeJS.Timeout;
  #renewing: Promise<void> = Promise.resolve();

  /** @param renew false if it is no longer ours */
  constructor({
    renew,
    leaseMs,
    log,
  }: {
    renew: (untilMs: number) => Promise<boolean>;
    leaseMs: number;
    log: Logger;
  }) {
    const lost = new AbortController();
    this.signal = lost.signal;
    let untilMs = Date.now() + leaseMs;
    const lose = () => lost.abort(new Error('another process may be at the same'));
    this.#timer = setInterval(() => {
      if (Date.now() >= untilMs) return lose();
      const nextMs = Date.now() + leaseMs;
      this.#renewing = renew(nextMs).then(
        (isOurs) => {
          if (isOurs) untilMs = nextMs;
          else lose();
        },
        (error: unknown) => log.warn({ err: error }, 'a lease could not be renewed'),
      );
    }, leaseMs * RENEWAL_PART);
  }

  /** Resolves when it is not renewed any more; giving it back is the caller's. */
  async end(): Promise<void> {
    clearInterval(this.#timer);
    await this.#renewing;
  }
}

import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { ChainGuard } from '../../convert/image.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Leases } from '../../store/leases.ts';
import { tryToKeep } from '../content/keep.ts';
import { KeptLease } from './kept-lease.ts';

/** Between two looks at a chain that another process has: longer and longer, each time a little different. */
const MIN_POLL_MS = 200;
const MAX_POLL_MS = 2_000;

/**
 * A chain is converted by one at a time: of this process's conversions, and of all processes that share the catalog.
 * Whoever died of it, or cannot be heard of any more, has it until its lease ends.
 */
export class ChainLeases implements ChainGuard {
  readonly #leases: Pick<Leases, 'take' | 'release'>;
  readonly #profile: string;
  readonly #leaseMs: number;
  readonly #log: Logger;
  /** Of this process; they resolve when whoever was at the chain is done with it, one way or the other. */
  readonly #atWork = new Map<Digest, Promise<void>>();

  constructor(parts: {
    leases: Pick<Leases, 'take' | 'release'>;
    profile: string;
    leaseMs: number;
    log: Logger;
  }) {
    this.#leases = parts.leases;
    this.#profile = parts.profile;
    this.#leaseMs = parts.leaseMs;
    this.#log = parts.log;
  }

  async once<T>(
    chainId: Digest,
    known: () => Promise<T | null>,
    work: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    for (let looks = 0; ; looks++) {
      const found = await known();
      if (found !== null) return found;
      signal.throwIfAborted();
      const other = this.#atWork.get(chainId);
      if (other !== undefined) {
        await unlessAborted(other, signal);
        continue;
      }
      const over = Promise.withResolvers<void>();
      this.#atWork.set(chainId, over.promise);
      try {
        const made = await this.#leased(chainId, known, work, signal);
        if (made !== null) return made.value;
        await delay(pollMs(looks), undefined, { signal });
      } finally {
        this.#atWork.delete(chainId);
        over.resolve();
      }
    }
  }

  /** Null if another process has the chain, or took it away. */
  async #leased<T>(
    chainId: Digest,
    known: () => Promise<T | null>,
    work: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<{ readonly value: T } | null> {
    const name = `chain:${this.#profile}:${chainId}`;
    const take = (untilMs: number) => this.#leases.take(name, untilMs, Date.now());
    const untilMs = Date.now() + this.#leaseMs;
    if (!(await take(untilMs))) return null;
    const log = this.#log.child({ chain: chainId });
    const lease = new KeptLease({ untilMs, renew: take, leaseMs: this.#leaseMs, log });
    try {
      // It may have been finished between the look and the lease.
      const found = await known();
      const value = found ?? (await work(AbortSignal.any([signal, lease.signal])));
      if (found === null) log.info('chain converted');
      return { value };
    } catch (error) {
      if (!lease.signal.aborted || signal.aborted) throw error;
      log.warn('a chain was given up: its lease has ended, and another process may be at it');
      return null;
    } finally {
      await lease.end();
      await tryToKeep(log, () => this.#leases.release(name));
    }
  }
}

function pollMs(looks: number): number {
  const meanMs = Math.min(MIN_POLL_MS * 1.5 ** looks, MAX_POLL_MS);
  return meanMs * (0.75 + Math.random() / 2);
}

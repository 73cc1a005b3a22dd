import { setImmediate as turn } from 'node:timers/promises';
import type { Clock } from '../../src/p2p/agent/clock.ts';

interface Sleeper {
  readonly dueMs: number;
  readonly wake: () => void;
}

/** A clock whose time passes only while nothing else is to be done: what runs on it takes no time, and always the same. */
export class VirtualClock implements Clock {
  #nowMs = 0;
  readonly #sleepers = new Set<Sleeper>();
  #hold: { readonly fromMs: number; readonly toMs: number } | null = null;

  now(): number {
    return this.#nowMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = () => {
      this.#sleepers.delete(sleeper);
      reject(signal?.reason);
    };
    const wake = () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    };
    const sleeper = { dueMs: this.#nowMs + ms, wake };
    this.#sleepers.add(sleeper);
    signal?.addEventListener('abort', onAbort, { once: true });
    return promise;
  }

  /** The process does nothing between two moments: what would have woken in between wakes at the end. */
  hold(fromMs: number, toMs: number): void {
    this.#hold = { fromMs, toMs };
  }

  /** Lets time pass until `work` is done. */
  async run<T>(work: Promise<T>): Promise<T> {
    let isDone = false;
    const end = () => {
      isDone = true;
    };
    work.then(end, end);
    for (;;) {
      await turn();
      if (isDone) return work;
      const next = [...this.#sleepers].reduce<Sleeper | null>(
        (first, sleeper) => (first === null || sleeper.dueMs < first.dueMs ? sleeper : first),
        null,
      );
      if (next === null) throw new Error('what is waited for does not wait for the time');
      this.#sleepers.delete(next);
      this.#nowMs = Math.max(this.#nowMs, this.#heldUp(next.dueMs));
      next.wake();
    }
  }

  #heldUp(dueMs: number): number {
    if (this.#hold === null || dueMs < this.#hold.fromMs) return dueMs;
    return Math.max(dueMs, this.#hold.toMs);
  }
}

/** A clock that stands still while something is computed and then goes to the next moment at which something happens. */
import type { Clock } from '../../src/p2p/agent/clock.ts';
import { Heap } from './heap.ts';

interface Moment {
  readonly atMs: number;
  /** Of two at the same time, the one that was planned first comes first. */
  readonly order: number;
  what: (() => void) | null;
}

/** So many events for one turn of the event loop, which costs more than most of them. */
const BATCH = 1_000;

/** Virtual time, for code that was written for {@link Clock}: what it awaits is done before the clock moves on. */
export class VirtualTime implements Clock {
  readonly #moments = new Heap<Moment>((a, b) => a.atMs - b.atMs || a.order - b.order);
  #nowMs = 0;
  #order = 0;
  /** That have happened. */
  events = 0;

  now(): number {
    return this.#nowMs;
  }

  /** Calls `what` so much later; the answer takes that back. */
  after(ms: number, what: () => void): () => void {
    const moment: Moment = { atMs: this.#nowMs + Math.max(0, ms), order: this.#order++, what };
    this.#moments.push(moment);
    return () => {
      moment.what = null;
    };
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal === undefined) return new Promise((resolve) => this.after(ms, resolve));
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const onAbort = () => {
        takeBack();
        reject(signal.reason);
      };
      const takeBack = this.after(ms, () => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      });
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  /**
   * Lets time pass until nothing is planned any more, `isDone` says so, or it is `untilMs`. Between two events all promises
   * settle that can without time passing: Node.js lets them after each function that `setImmediate` calls, also when many
   * are called in the same turn.
   */
  run(isDone: () => boolean, untilMs = Number.POSITIVE_INFINITY): Promise<void> {
    return new Promise((resolve, reject) => {
      let isOver = false;
      let left = 0;
      const step = () => {
        left--;
        if (isOver) return;
        try {
          isOver = isDone() || !this.#step(untilMs);
        } catch (error) {
          isOver = true;
          reject(error);
        }
        if (isOver) resolve();
        else if (left === 0) plan();
      };
      const plan = () => {
        for (; left < BATCH; left++) setImmediate(step);
      };
      plan();
    });
  }

  /** The next event; false if there is none before `untilMs`. */
  #step(untilMs: number): boolean {
    for (;;) {
      const next = this.#moments.pop();
      if (next === null) return false;
      if (next.atMs > untilMs) {
        this.#nowMs = untilMs;
        return false;
      }
      if (next.what === null) continue;
      this.#nowMs = next.atMs;
      this.events++;
      next.what();
      return true;
    }
  }
}

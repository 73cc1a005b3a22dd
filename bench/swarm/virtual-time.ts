/** A clock that stands still while something is computed and then goes to the next moment at which something happens. */
import type { Clock } from '../../src/p2p/agent/clock.ts';

interface Moment {
  readonly atMs: number;
  /** Of two at the same time, the one that was planned first comes first. */
  readonly order: number;
  what: (() => void) | null;
}

/** Virtual time, for code that was written for {@link Clock}: what it awaits is done before the clock moves on. */
export class VirtualTime implements Clock {
  readonly #heap: Moment[] = [];
  #nowMs = 0;
  #order = 0;

  now(): number {
    return this.#nowMs;
  }

  /** Calls `what` so much later; the answer takes that back. */
  after(ms: number, what: () => void): () => void {
    const moment: Moment = { atMs: this.#nowMs + Math.max(0, ms), order: this.#order++, what };
    this.#push(moment);
    return () => {
      moment.what = null;
    };
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const onAbort = () => {
        takeBack();
        reject(signal?.reason);
      };
      const takeBack = this.after(ms, () => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      });
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** Lets time pass until nothing is planned any more, `isDone` says so, or it is `untilMs`. */
  async run(isDone: () => boolean, untilMs = Number.POSITIVE_INFINITY): Promise<void> {
    await settled();
    while (!isDone()) {
      const next = this.#pop();
      if (next === null) return;
      if (next.atMs > untilMs) {
        this.#nowMs = untilMs;
        return;
      }
      if (next.what === null) continue;
      this.#nowMs = next.atMs;
      next.what();
      await settled();
    }
  }

  #push(moment: Moment): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(moment);
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (!isBefore(moment, heap[up]!)) break;
      heap[at] = heap[up]!;
      at = up;
    }
    heap[at] = moment;
  }

  #pop(): Moment | null {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return null;
    if (heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      if (down >= heap.length) break;
      if (down + 1 < heap.length && isBefore(heap[down + 1]!, heap[down]!)) down++;
      if (!isBefore(heap[down]!, last)) break;
      heap[at] = heap[down]!;
      at = down;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore(a: Moment, b: Moment): boolean {
  return a.atMs === b.atMs ? a.order < b.order : a.atMs < b.atMs;
}

/** All promises that can settle without time passing have: they run before this does. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

import type { Clock } from './clock.ts';
import type { Budgets } from './mesh.ts';

export const DEFAULT_BUDGETS: Budgets = { joinMs: 4_000, findMs: 300, readMs: 2_000 };
/** Of who wants all of a blob: a host that is gone may cost a pull some seconds, once. */
export const LONG_BUDGETS: Budgets = { joinMs: 5_000, findMs: 1_500, readMs: 5_000, runMs: 25_000 };

/**
 * So much longer than those above it a host waits for the next chunk, by each level, up to so many: when the top stalls,
 * those right below it ask the proxies, and all others have the chunk from them before they do the same.
 */
const LEVEL_MS = 150;
const MAX_LEVELS = 5;
/** A timer that comes later than this tells of this process, not of the peers. */
const LATE_MS = 5;
/** So that a short hold-up is noticed, whatever is being waited for. */
const LONGEST_SLEEP_MS = 50;

/** How long a run of chunks may go on. While this process itself is held up, no time passes, up to a bound. */
export class RunTime {
  readonly #clock: Clock;
  readonly #budgets: Budgets;
  readonly #depth: () => number | null;
  readonly #usualMs: () => number;
  #startMs: number;
  /** When a chunk came last. */
  #lastMs: number;
  #forgivenMs = 0;

  /**
   * @param depth of this host in the tree: 1 at the top; null if it has no place
   * @param usualMs what the next chunk may well take
   */
  constructor(clock: Clock, budgets: Budgets, depth: () => number | null, usualMs: () => number) {
    this.#clock = clock;
    this.#budgets = budgets;
    this.#depth = depth;
    this.#usualMs = usualMs;
    this.#startMs = clock.now();
    this.#lastMs = this.#startMs;
  }

  progressed(nowMs: number): void {
    this.#lastMs = nowMs;
  }

  /** When it has stalled, if nothing comes before. Where all takes long, the proxies would too if all hosts asked them. */
  get stallMs(): number {
    const levels = (this.#depth() ?? 2) - 2;
    const readMs = Math.max(this.#budgets.readMs, this.#usualMs());
    return this.#lastMs + readMs + LEVEL_MS * Math.min(Math.max(levels, 0), MAX_LEVELS);
  }

  /** When it is over, if nothing comes before. */
  get endMs(): number {
    const { readMs, runMs = 2 * readMs } = this.#budgets;
    return Math.min(this.stallMs, this.#startMs + runMs);
  }

  /** When it is over if nobody has said anything. @param isThere whether one was heard of a moment ago: it may have much to do */
  giveUpMs(isThere: boolean): number {
    return this.#startMs + (isThere ? this.#budgets.readMs : 0);
  }

  /**
   * Waits until that moment, or a little less. Resolves to how long this process was held up, which does not count: all that
   * is waited for gets that much later.
   * @throws the signal's reason
   */
  async until(dueMs: number, signal: AbortSignal): Promise<number> {
    const beginMs = this.#clock.now();
    const sleepMs = Math.min(Math.max(dueMs - beginMs, 1), LONGEST_SLEEP_MS);
    await this.#clock.sleep(sleepMs, signal);
    const lateMs = this.#clock.now() - beginMs - sleepMs;
    if (lateMs <= LATE_MS || this.#forgivenMs >= this.#budgets.readMs) return 0;
    this.#forgivenMs += lateMs;
    this.#startMs += lateMs;
    this.#lastMs += lateMs;
    return lateMs;
  }
}

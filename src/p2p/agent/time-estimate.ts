/** Weights of the newest sample, and of the deviation in the bound: those of TCP's retransmission timer (RFC 6298). */
const MEAN_WEIGHT = 1 / 8;
const DEVIATION_WEIGHT = 1 / 4;
const DEVIATIONS = 4;

/** How long something takes that happens again and again. */
export class TimeEstimate {
  #meanMs: number | null = null;
  #deviationMs = 0;

  sample(elapsedMs: number): void {
    if (this.#meanMs === null) {
      this.#meanMs = elapsedMs;
      this.#deviationMs = elapsedMs / 2;
      return;
    }
    const off = Math.abs(elapsedMs - this.#meanMs);
    this.#deviationMs += DEVIATION_WEIGHT * (off - this.#deviationMs);
    this.#meanMs += MEAN_WEIGHT * (elapsedMs - this.#meanMs);
  }

  /** What it takes longer than only if something is wrong; null while nothing is known. */
  get longestMs(): number | null {
    if (this.#meanMs === null) return null;
    return Math.max(2 * this.#meanMs, this.#meanMs + DEVIATIONS * this.#deviationMs);
  }
}

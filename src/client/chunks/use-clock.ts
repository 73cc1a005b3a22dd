/** Tells when something is used: seconds since 1970, but never the same twice and never backwards. */
export class UseClock {
  #last = 0;

  now(): number {
    // A double has room for a million uses a second.
    this.#last = Math.max(this.#last + 2 ** -20, Date.now() / 1000);
    return this.#last;
  }

  /** From here on later than `time`: what an earlier process wrote down stays older. */
  follow(time: number): void {
    this.#last = Math.max(this.#last, time);
  }
}

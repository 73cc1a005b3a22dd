import type { VirtualTime } from './virtual-time.ts';

/** The processors of a host, or of a machine that many hosts share: work waits for a free one, first come first served. */
export class Cpu {
  readonly #time: VirtualTime;
  /** When each becomes free. */
  readonly #freeAtMs: number[];

  constructor(time: VirtualTime, cores: number) {
    this.#time = time;
    this.#freeAtMs = Array.from({ length: cores }, () => 0);
  }

  /** Resolves when work of so many milliseconds is done. */
  work(ms: number): Promise<void> {
    if (ms <= 0) return Promise.resolve();
    const next = this.#freeAtMs.indexOf(Math.min(...this.#freeAtMs));
    const doneMs = Math.max(this.#time.now(), this.#freeAtMs[next]!) + ms;
    this.#freeAtMs[next] = doneMs;
    return this.#time.sleep(doneMs - this.#time.now());
  }
}

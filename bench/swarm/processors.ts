/** The processors of a host, or of a machine that many hosts share. */
import { Fifo } from './fifo.ts';
import { Heap } from './heap.ts';
import type { VirtualTime } from './virtual-time.ts';

interface Job {
  /** On the processors' own clock: see {@link Processors}. */
  readonly endsAt: number;
  readonly order: number;
  readonly done: () => void;
}

/** Of the time that is computed; less than anything that is measured. */
const PRECISION_MS = 1e-6;

/**
 * All that wants to work gets an equal share, and nothing more than one processor, as the kernel's scheduler has it. So the
 * more want to work, the longer each waits: on processors that have too much to do whoever answers is slow, and those who
 * wait for it run out of patience.
 *
 * They have a clock of their own that goes as fast as each job is worked on: a job of 5 ms ends when it has gone on by five.
 */
export class Processors {
  readonly #time: VirtualTime;
  readonly #cores: number;
  readonly #jobs = new Heap<Job>((a, b) => a.endsAt - b.endsAt || a.order - b.order);
  #order = 0;
  /** The own clock, and when it showed that. */
  #own = 0;
  #ownAtMs = 0;
  #takeBack: (() => void) | null = null;
  #plannedMs = Number.POSITIVE_INFINITY;
  /** That has been done. */
  usedMs = 0;

  constructor(time: VirtualTime, cores: number) {
    this.#time = time;
    this.#cores = cores;
  }

  /** Calls `done` when so much has been worked. */
  start(ms: number, done: () => void): void {
    this.#advance();
    this.usedMs += ms;
    this.#jobs.push({ endsAt: this.#own + ms, order: this.#order++, done });
    this.#plan();
  }

  get #rate(): number {
    return Math.min(1, this.#cores / this.#jobs.size);
  }

  #advance(): void {
    const nowMs = this.#time.now();
    if (this.#jobs.size > 0) this.#own += (nowMs - this.#ownAtMs) * this.#rate;
    this.#ownAtMs = nowMs;
  }

  #plan(): void {
    const { first } = this.#jobs;
    const nowMs = this.#time.now();
    const atMs =
      first === null ? Number.POSITIVE_INFINITY : nowMs + Math.max(0, first.endsAt - this.#own) / this.#rate;
    if (Math.abs(atMs - this.#plannedMs) < PRECISION_MS) return;
    this.#takeBack?.();
    this.#plannedMs = atMs;
    this.#takeBack = first === null ? null : this.#time.after(atMs - nowMs, () => this.#end());
  }

  #end(): void {
    this.#takeBack = null;
    this.#plannedMs = Number.POSITIVE_INFINITY;
    this.#advance();
    const ended: Job[] = [];
    while (this.#jobs.first !== null && this.#jobs.first.endsAt <= this.#own + PRECISION_MS) {
      ended.push(this.#jobs.pop()!);
    }
    this.#plan();
    for (const { done } of ended) done();
  }
}

/** One thread of a program: what it has to do waits for what it had to do before. */
export class Thread {
  readonly #processors: Processors;
  readonly #waiting = new Fifo<{ readonly ms: number; readonly done: () => void }>();
  #isBusy = false;

  constructor(processors: Processors) {
    this.#processors = processors;
  }

  /** Resolves when it has worked so many milliseconds; of 0, when it has done all that came before. */
  work(ms: number): Promise<void> {
    if (ms <= 0 && !this.#isBusy) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push({ ms, done: resolve });
      this.#next();
    });
  }

  #next(): void {
    while (!this.#isBusy) {
      const next = this.#waiting.shift();
      if (next === null) return;
      if (next.ms <= 0) {
        next.done();
        continue;
      }
      this.#isBusy = true;
      this.#processors.start(next.ms, () => {
        this.#isBusy = false;
        next.done();
        this.#next();
      });
    }
  }
}

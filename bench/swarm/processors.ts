/** The processors of a host, or of a machine that many hosts share. */
import { Fifo } from './fifo.ts';
import { Heap } from './heap.ts';
import type { VirtualTime } from './virtual-time.ts';

/** What a thread wants to have done. */
interface Job {
  leftMs: number;
  /** What its thread has had, as the scheduler counts it. */
  hadMs: number;
  /** While it runs: when it gives way. */
  sliceEndsMs: number;
  readonly order: number;
  readonly thread: Thread;
  readonly done: () => void;
}

/** How long one thread runs while others wait: about what the kernel's scheduler gives it. */
const SLICE_MS = 3;
/** Of the time that is computed; less than anything that is measured. */
const PRECISION_MS = 1e-6;

/**
 * Who has had least is next, and gives way to the others after a slice, as the kernel's scheduler has it: who seldom wants
 * anything gets it soon, also where others want all they can get. Where processors are threads of one core they are slower
 * together than each of them alone.
 */
export class Processors {
  readonly #time: VirtualTime;
  readonly #cores: number;
  /** Of each, by how many of them work. */
  readonly #speeds: readonly number[];
  readonly #waiting = new Heap<Job>((a, b) => a.hadMs - b.hadMs || a.order - b.order);
  #running: Job[] = [];
  /** Where those that are given time are, so that whoever has slept does not have all of it now. */
  #levelMs = 0;
  #order = 0;
  #atMs = 0;
  #takeBack: (() => void) | null = null;
  /** That has been done. */
  usedMs = 0;

  /** @param parallel work that all of them do in the time in which one alone does 1 */
  constructor(time: VirtualTime, cores: number, parallel = cores) {
    this.#time = time;
    this.#cores = cores;
    const step = cores === 1 ? 0 : (parallel - 1) / (cores - 1);
    this.#speeds = Array.from({ length: cores + 1 }, (_, working) =>
      working === 0 ? 1 : (1 + step * (working - 1)) / working,
    );
  }

  /** Calls `done` when so much has been worked. */
  start(thread: Thread, ms: number, done: () => void): void {
    this.#advance();
    this.usedMs += ms;
    const hadMs = Math.max(thread.hadMs, this.#levelMs);
    this.#waiting.push({ leftMs: ms, hadMs, sliceEndsMs: 0, order: this.#order++, thread, done });
    this.#plan();
  }

  #advance(): void {
    const nowMs = this.#time.now();
    const workedMs = (nowMs - this.#atMs) * this.#speeds[this.#running.length]!;
    for (const job of this.#running) {
      job.leftMs -= workedMs;
      job.hadMs += workedMs;
    }
    this.#atMs = nowMs;
  }

  #plan(): void {
    while (this.#running.length < this.#cores) {
      const next = this.#waiting.pop();
      if (next === null) break;
      this.#levelMs = Math.max(this.#levelMs, next.hadMs);
      this.#running.push(next);
      next.sliceEndsMs = this.#atMs + SLICE_MS;
    }
    this.#takeBack?.();
    this.#takeBack = null;
    if (this.#running.length === 0) return;
    const speed = this.#speeds[this.#running.length]!;
    let dueMs = Math.min(...this.#running.map(({ leftMs }) => leftMs)) / speed;
    if (this.#waiting.first !== null) {
      dueMs = Math.min(dueMs, ...this.#running.map(({ sliceEndsMs }) => sliceEndsMs - this.#atMs));
    }
    this.#takeBack = this.#time.after(Math.max(0, dueMs), () => this.#turn());
  }

  /** Something has ended: a job, or a slice. */
  #turn(): void {
    this.#takeBack = null;
    this.#advance();
    const ended = this.#running.filter(({ leftMs }) => leftMs <= PRECISION_MS);
    this.#running = this.#running.filter(({ leftMs }) => leftMs > PRECISION_MS);
    if (this.#waiting.first !== null) {
      const over = this.#running.filter(({ sliceEndsMs }) => this.#atMs >= sliceEndsMs - PRECISION_MS);
      this.#running = this.#running.filter((job) => !over.includes(job));
      for (const job of over) this.#waiting.push(job);
    }
    for (const { thread, hadMs } of ended) thread.hadMs = hadMs;
    this.#plan();
    for (const { done } of ended) done();
  }
}

/** One thread of a program: what it has to do waits for what it had to do before. */
export class Thread {
  /** On its processors, as their scheduler counts it. */
  hadMs = 0;
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
      this.#processors.start(this, next.ms, () => {
        this.#isBusy = false;
        next.done();
        this.#next();
      });
    }
  }
}

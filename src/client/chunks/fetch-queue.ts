import { SourceError } from '../../format/byte-source.ts';
import { FetchRefusedError } from './chunk-fetcher.ts';

/** Neighbours that are wanted at the same time become one request up to this. */
const MAX_REQUEST_BYTES = 4 * 1024 * 1024;
/** Requests of one blob at once, and how many of them may be for chunks that nobody waits for. */
const MAX_RUNS = 8;
const MAX_BACKGROUND_RUNS = 2;
/** A request that gets stuck must leave time for another one. */
const ATTEMPT_SHARE = 0.5;
const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 3_000;
/** A chunk with a wrong digest is asked for again: it may be one bad cache on the way. */
const MAX_CORRUPT_ANSWERS = 4;

/** A chunk that is to come. */
interface Want {
  readonly index: number;
  readonly coming: ReturnType<typeof Promise.withResolvers<Buffer>>;
  /** When those who wait for it have waited their time; null while nobody waits. On the clock of `performance.now()`. */
  deadlineMs: number | null;
  corruptAnswers: number;
  failure: unknown;
}

export interface FetchQueueOptions {
  /** Of the blob, in errors. */
  readonly name: string;
  readonly chunkSize: number;
  /** How long a chunk may take that somebody waits for, all attempts together. */
  readonly timeoutMs: number;
  /** One attempt: gives each right chunk to `deliver`, returns the indexes of the wrong ones. */
  readonly fetch: (
    first: number,
    count: number,
    signal: AbortSignal,
    deliver: (index: number, bytes: Buffer) => void,
  ) => Promise<number[]>;
  /** Keeps a chunk that came; the request counts as under way until it is kept. */
  readonly keep: (index: number, bytes: Buffer) => Promise<void>;
  /** How many there are to ask: if one refuses, the next one may have it. */
  readonly sources: () => number;
}

/**
 * Gets a blob's chunks from the network: what somebody waits for first, neighbours together, few requests at once.
 * While requests fail, only one at a time is made, of one chunk, with growing pauses, however many wait; the first
 * success lets all go on. Who comes when nobody else waits is not made to wait for the pause to end.
 */
export class FetchQueue {
  readonly #options: FetchQueueOptions;
  readonly #wants = new Map<number, Want>();
  /** Those that are not being fetched, in the order in which they came. */
  readonly #urgent = new Set<Want>();
  readonly #background = new Set<Want>();
  readonly #closed = new AbortController();
  #isPumping = false;
  /** Chunks that somebody waits for. */
  #waiting = 0;
  readonly #running = new Set<Promise<void>>();
  #backgroundRuns = 0;
  /** Failed attempts since the last success; those that were under way together are one. */
  #failures = 0;
  /** Sources that refused one after the other: of those that fail otherwise, one may have it. */
  #refusals = 0;
  #pauseEndMs = 0;
  #isProbing = false;
  #pauseTimer: NodeJS.Timeout | undefined;
  #deadlineTimer: NodeJS.Timeout | undefined;

  constructor(options: FetchQueueOptions) {
    this.#options = options;
  }

  /**
   * A chunk, when it has come. Not urgent: in the background, tried once, until somebody calls {@link urge}.
   * @throws SourceError ERR_SOURCE_CORRUPT, ERR_SOURCE_IO
   */
  get(index: number, isUrgent: boolean): Promise<Buffer> {
    const want: Want = {
      index,
      coming: Promise.withResolvers(),
      deadlineMs: null,
      corruptAnswers: 0,
      failure: null,
    };
    if (this.#closed.signal.aborted) return Promise.reject(this.#error(want, 'the blob is closed'));
    this.#wants.set(index, want);
    this.#background.add(want);
    if (isUrgent) this.urge(index);
    else this.#pump();
    return want.coming.promise;
  }

  /** Now somebody waits for this chunk. */
  urge(index: number): void {
    const want = this.#wants.get(index);
    if (want === undefined || want.deadlineMs !== null) return;
    want.deadlineMs = performance.now() + this.#options.timeoutMs;
    if (this.#background.delete(want)) this.#urgent.add(want);
    if (++this.#waiting === 1) {
      this.#pauseEndMs = 0;
      this.#watchDeadlines();
    }
    this.#pump();
  }

  /** Fails what waits, ends what is under way, and waits until what has come is kept. */
  async close(): Promise<void> {
    this.#closed.abort();
    clearTimeout(this.#pauseTimer);
    for (const want of [...this.#wants.values()]) this.#fail(want, this.#error(want, 'the blob is closed'));
    await Promise.all(this.#running);
  }

  /** Starts what may start; not at once, so that neighbours that come one after the other go together. */
  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    queueMicrotask(() => {
      this.#isPumping = false;
      while (!this.#closed.signal.aborted) {
        const queue = this.#openQueue();
        const [first] = queue ?? [];
        if (queue === null || first === undefined) return;
        this.#start(this.#neighbours(first, queue));
      }
    });
  }

  /** From which queue a request may be made now. */
  #openQueue(): Set<Want> | null {
    const isUrgent = this.#urgent.size > 0;
    const queue = isUrgent ? this.#urgent : this.#background;
    if (queue.size === 0 || this.#running.size >= MAX_RUNS) return null;
    if (!isUrgent && this.#backgroundRuns >= MAX_BACKGROUND_RUNS) return null;
    if (this.#failures === 0) return queue;
    if (isUrgent ? this.#isProbing : this.#backgroundRuns > 0) return null;
    const pauseMs = this.#pauseEndMs - performance.now();
    if (pauseMs <= 0) return queue;
    clearTimeout(this.#pauseTimer);
    this.#pauseTimer = setTimeout(() => this.#pump(), Math.ceil(pauseMs));
    return null;
  }

  /** Takes chunks out of a queue that are to be fetched together. */
  #neighbours(first: Want, queue: Set<Want>): Want[] {
    const run = [first];
    queue.delete(first);
    const most = this.#failures > 0 ? 1 : Math.floor(MAX_REQUEST_BYTES / this.#options.chunkSize);
    while (run.length < most) {
      const next = this.#wants.get(first.index + run.length);
      if (next === undefined || !queue.delete(next)) break;
      run.push(next);
    }
    return run;
  }

  #start(wants: readonly Want[]): void {
    const run = this.#run(wants).finally(() => {
      this.#running.delete(run);
      this.#pump();
    });
    this.#running.add(run);
  }

  async #run(run: readonly Want[]): Promise<void> {
    const isBackground = run[0]!.deadlineMs === null;
    const isProbe = this.#failures > 0 && !isBackground;
    const failuresBefore = this.#failures;
    const attemptMs = Math.ceil(ATTEMPT_SHARE * this.#options.timeoutMs);
    const signal = AbortSignal.any([this.#closed.signal, AbortSignal.timeout(attemptMs)]);
    const kept: Promise<void>[] = [];
    const deliver = (index: number, bytes: Buffer) => {
      kept.push(this.#options.keep(index, bytes));
      // Who wanted it first may have given up, and somebody else may want it now.
      const want = this.#wants.get(index);
      if (want === undefined) return;
      this.#forget(want);
      want.coming.resolve(bytes);
    };
    if (isBackground) this.#backgroundRuns++;
    if (isProbe) this.#isProbing = true;
    try {
      const corrupt = await this.#options.fetch(run[0]!.index, run.length, signal, deliver);
      this.#failures = 0;
      this.#refusals = 0;
      for (const index of corrupt) this.#answeredCorruptly(run[index - run[0]!.index]!);
    } catch (error) {
      this.#failed(run, error, failuresBefore === this.#failures);
    }
    if (isProbe) this.#isProbing = false;
    await Promise.all(kept);
    if (isBackground) this.#backgroundRuns--;
  }

  #failed(run: readonly Want[], failure: unknown, isNews: boolean): void {
    const refuses = failure instanceof FetchRefusedError;
    if (isNews) {
      this.#failures++;
      const pauseMs = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this.#failures - 1));
      this.#pauseEndMs = performance.now() + pauseMs * (0.75 + Math.random() / 2);
      this.#refusals = refuses ? this.#refusals + 1 : 0;
    }
    const isFinal = refuses && this.#refusals >= this.#options.sources();
    for (const want of run) {
      if (this.#wants.get(want.index) !== want) continue;
      want.failure = failure;
      if (want.deadlineMs === null || isFinal) this.#fail(want, this.#error(want, 'it cannot be fetched'));
      else this.#urgent.add(want);
    }
  }

  #answeredCorruptly(want: Want): void {
    if (this.#wants.get(want.index) !== want) return;
    want.corruptAnswers++;
    if (want.deadlineMs === null || want.corruptAnswers === MAX_CORRUPT_ANSWERS) {
      const what = `the bytes sent for chunk ${want.index} do not match the chunk table`;
      this.#fail(want, new SourceError('ERR_SOURCE_CORRUPT', `${this.#options.name}: ${what}`));
      return;
    }
    setTimeout(
      () => {
        if (this.#wants.get(want.index) !== want) return;
        this.#urgent.add(want);
        this.#pump();
      },
      FIRST_PAUSE_MS * 2 ** (want.corruptAnswers - 1),
    );
  }

  #watchDeadlines(): void {
    const deadlines = [...this.#wants.values()].flatMap(({ deadlineMs }) => deadlineMs ?? []);
    const waitMs = Math.max(1, Math.ceil(Math.min(...deadlines) - performance.now()));
    clearTimeout(this.#deadlineTimer);
    this.#deadlineTimer = setTimeout(() => {
      const nowMs = performance.now();
      for (const want of [...this.#wants.values()]) {
        if (want.deadlineMs === null || want.deadlineMs > nowMs) continue;
        this.#fail(want, this.#error(want, `it did not come within ${this.#options.timeoutMs} ms`));
      }
      if (this.#waiting > 0) this.#watchDeadlines();
    }, waitMs);
  }

  #fail(want: Want, error: SourceError): void {
    this.#forget(want);
    want.coming.reject(error);
  }

  #forget(want: Want): void {
    this.#urgent.delete(want);
    this.#background.delete(want);
    if (this.#wants.get(want.index) !== want) return;
    this.#wants.delete(want.index);
    if (want.deadlineMs !== null && --this.#waiting === 0) clearTimeout(this.#deadlineTimer);
  }

  #error(want: Want, what: string): SourceError {
    const { name, chunkSize } = this.#options;
    const where = `chunk ${want.index} (at ${want.index * chunkSize})`;
    return new SourceError('ERR_SOURCE_IO', `${name}: ${where}: ${what}`, { cause: want.failure });
  }
}

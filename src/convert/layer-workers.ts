import { Worker } from 'node:worker_threads';
import { Bell } from './bell.ts';
import { ConvertError } from './errors.ts';
import type { LayerMessage, LayerRequest, LayerResult, LayerTask, ThreadData } from './layer-protocol.ts';
import { type ImageTurns, LayerTurns } from './layer-turns.ts';
import { SharedWork } from './shared-work.ts';

const WORKER_URL = new URL(
  import.meta.url.endsWith('.ts') ? './layer-worker.ts' : './layer-worker.js',
  import.meta.url,
);

/**
 * Most of what a layer's thread allocates are buffers, which the collector hardly counts: with a small young
 * generation it looks often enough. A third less memory for a layer of 100,000 files, in the same time.
 */
const MAX_YOUNG_GENERATION_MIB = 16;
/** For layers of more compressed bytes all threads are started, to help: it takes them some 0.2 s. */
const HELP_FROM_BYTES = 8 * 1024 * 1024;
/** For a thread to give its layer up; after that, it is ended, which loses native memory. */
const ABORT_GRACE_MS = 5_000;
/** For one to end by itself. */
const END_GRACE_MS = 2_000;

interface ConvertOptions {
  /** Of the layer as upstream has it. */
  readonly compressedBytes: number;
  readonly onProgress: (compressedBytes: number) => void;
  readonly signal: AbortSignal;
}

interface Thread {
  readonly worker: Worker;
  readonly number: number;
  readonly work: SharedWork;
  /** How many layers it was given. */
  turn: number;
}

/**
 * The threads that convert layers, one layer at a time each. Those that have none work for the others. They
 * are kept: starting one takes longer than converting a small layer, and a thread that ends leaves some hundred KB of
 * the libraries it called behind.
 */
export class LayerWorkers {
  readonly #size: number;
  readonly #threads = new Set<Thread>();
  readonly #idle: Thread[] = [];
  readonly #turns: LayerTurns;
  readonly #bell = new Bell();
  readonly #niceness: number;
  #lastNumber = 0;

  /**
   * @param size how many layers are converted at the same time, and how many threads there are
   * @param options.niceness of the threads, where the system has one for each: the kernel's, 0 is as everybody else
   */
  constructor(size: number, { niceness = 0 }: { readonly niceness?: number } = {}) {
    this.#size = size;
    this.#niceness = niceness;
    this.#turns = new LayerTurns(size, () => {
      for (const thread of this.#threads) tell(thread, { type: 'release' });
    });
  }

  /** Turns for the layers of one image; see {@link LayerTurns.image}. */
  image(priority: () => number): ImageTurns {
    return this.#turns.image(priority);
  }

  /**
   * Converts a layer. `parentPaths` is awaited only when all of the layer is read: the blobs below it, bottom
   * first, are what its directories and inodes build on. Rejects with ConvertError, or the signal's reason;
   * what stands at `outputPath` is then for the caller to remove.
   */
  async convert(
    task: LayerTask,
    parentPaths: () => Promise<readonly string[]>,
    { compressedBytes, onProgress, signal }: ConvertOptions,
  ): Promise<LayerResult> {
    signal.throwIfAborted();
    const thread = this.#idle.pop() ?? this.#start();
    if (compressedBytes >= HELP_FROM_BYTES) this.#startAll();
    thread.worker.ref();
    const end = await conversation(thread, task, parentPaths, { onProgress, signal });
    thread.worker.unref();
    if (end.kind === 'lost') await ended(thread);
    else this.#idle.push(thread);
    if (end.kind !== 'converted') throw end.reason;
    return end.result;
  }

  /** Ends the threads. No layer may be under way. */
  async close(): Promise<void> {
    this.#idle.length = 0;
    await Promise.all([...this.#threads].map(ended));
  }

  #startAll(): void {
    while (this.#threads.size < this.#size) this.#idle.push(this.#start());
  }

  #start(): Thread {
    const work = new SharedWork();
    const number = ++this.#lastNumber;
    const workerData: ThreadData = {
      number,
      work: work.memory,
      bell: this.#bell.memory,
      niceness: this.#niceness,
    };
    const worker = new Worker(WORKER_URL, {
      workerData,
      resourceLimits: { maxYoungGenerationSizeMb: MAX_YOUNG_GENERATION_MIB },
    });
    const thread = { worker, number, work, turn: 0 };
    worker.unref();
    worker.once('exit', () => this.#forget(thread));
    // A thread that dies ends; what it was doing hears of that.
    worker.on('error', () => {});
    this.#threads.add(thread);
    this.#introduce();
    return thread;
  }

  /** Nobody waits for what a thread had taken and will never finish. */
  #forget(thread: Thread): void {
    this.#threads.delete(thread);
    const index = this.#idle.indexOf(thread);
    if (index !== -1) this.#idle.splice(index, 1);
    for (const { work } of this.#threads) work.abandon(thread.number);
    this.#introduce();
  }

  #introduce(): void {
    for (const thread of this.#threads) {
      const others = [...this.#threads].filter((other) => other !== thread);
      tell(thread, { type: 'neighbours', work: others.map(({ work }) => work.memory) });
    }
  }
}

/**
 * Ends a thread, by its own hand if it still hears: one that is stopped in the midst of a native library's loading takes the
 * whole process with it.
 */
async function ended(thread: Thread): Promise<void> {
  const { worker } = thread;
  // It has ended already.
  if (worker.threadId === -1) return;
  worker.ref();
  const exit = new Promise((resolve) => worker.once('exit', resolve));
  tell(thread, { type: 'end' });
  const grace = setTimeout(() => void worker.terminate(), END_GRACE_MS);
  await exit;
  clearTimeout(grace);
}

/** How the conversion of a layer ended. A thread that is lost is of no use any more. */
type End =
  | { readonly kind: 'converted'; readonly result: LayerResult }
  | { readonly kind: 'failed' | 'lost'; readonly reason: unknown };

function conversation(
  thread: Thread,
  task: LayerTask,
  parentPaths: () => Promise<readonly string[]>,
  { onProgress, signal }: Pick<ConvertOptions, 'onProgress' | 'signal'>,
): Promise<End> {
  const { promise, resolve } = Promise.withResolvers<End>();
  const { worker, work } = thread;
  const turn = ++thread.turn;
  let givenUp: { readonly reason: unknown; readonly grace: NodeJS.Timeout } | null = null;

  function listen(message: LayerMessage): void {
    switch (message.type) {
      case 'progress':
        onProgress(message.bytes);
        return;
      case 'staged':
        parentPaths().then((paths) => tell(thread, { type: 'assemble', turn, parentPaths: paths }), giveUp);
        return;
      case 'done':
        finish({ kind: 'converted', result: message.result });
        return;
      case 'failed':
        finish({ kind: 'failed', reason: new ConvertError(message.code, message.message) });
        return;
    }
  }

  /** The thread answers that it failed, and is kept. */
  function giveUp(reason: unknown): void {
    if (givenUp !== null) return;
    const grace = setTimeout(() => finish({ kind: 'lost', reason }), ABORT_GRACE_MS);
    givenUp = { reason, grace };
    work.abort();
    tell(thread, { type: 'abort', turn });
  }

  const onAbort = () => giveUp(signal.reason);
  const onError = (error: Error) =>
    finish({
      kind: 'lost',
      reason: new ConvertError('ERR_CONVERT_WORKER', `the layer's thread died: ${error.message}`, {
        cause: error,
      }),
    });
  const onExit = (code: number) =>
    finish({
      kind: 'lost',
      reason: new ConvertError(
        'ERR_CONVERT_WORKER',
        `the layer's thread ended with code ${code} and no result`,
      ),
    });

  function finish(end: End): void {
    worker.off('message', listen).off('error', onError).off('exit', onExit);
    signal.removeEventListener('abort', onAbort);
    if (givenUp !== null) {
      clearTimeout(givenUp.grace);
      resolve({ kind: end.kind === 'lost' ? 'lost' : 'failed', reason: givenUp.reason });
      return;
    }
    resolve(end);
  }

  worker.on('message', listen).on('error', onError).on('exit', onExit);
  signal.addEventListener('abort', onAbort, { once: true });
  work.permit();
  tell(thread, { type: 'convert', turn, task });
  return promise;
}

function tell({ worker }: Thread, request: LayerRequest): void {
  worker.postMessage(request);
}

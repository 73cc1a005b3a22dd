import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import pLimit, { type LimitFunction } from 'p-limit';
import { ConvertError } from './errors.ts';
import type { LayerMessage, LayerRequest, LayerResult, LayerTask } from './layer-protocol.ts';

const WORKER_URL = new URL(
  import.meta.url.endsWith('.ts') ? './layer-worker.ts' : './layer-worker.js',
  import.meta.url,
);

/**
 * Most of what a layer's thread allocates are buffers, which the collector hardly counts: with a small young
 * generation it looks often enough. A third less memory for a layer of 100,000 files, in the same time.
 */
const MAX_YOUNG_GENERATION_MIB = 16;

interface ConvertOptions {
  readonly onProgress: (compressedBytes: number) => void;
  readonly signal: AbortSignal;
}

/**
 * The threads that convert layers, one layer at a time each. They are kept: starting one takes longer than
 * converting a small layer, and a thread that ends leaves some hundred KB of the libraries it called behind.
 */
export class LayerWorkers {
  readonly #idle: Worker[] = [];
  readonly #limit: LimitFunction;

  /** @param size how many layers are converted at the same time */
  constructor(size: number) {
    this.#limit = pLimit(size);
  }

  /**
   * Runs `work`, which converts at most one layer, when it is its turn: first come, first served. So a layer
   * whose turn it is waits for layers below it that are being converted, never for one that has no thread.
   */
  turn<T>(work: () => Promise<T>): Promise<T> {
    return this.#limit(work);
  }

  /**
   * Converts a layer. `parentPaths` is awaited only when all of the layer is read: the blobs below it, bottom
   * first, are what its directories and inodes build on. Rejects with ConvertError, or the signal's reason;
   * what stands at `outputPath` is then for the caller to remove.
   */
  async convert(
    task: LayerTask,
    parentPaths: () => Promise<readonly string[]>,
    { onProgress, signal }: ConvertOptions,
  ): Promise<LayerResult> {
    signal.throwIfAborted();
    const worker = this.#idle.pop() ?? startWorker();
    worker.ref();
    const done = new AbortController();
    try {
      const result = await Promise.race([
        converse(worker, task, parentPaths, onProgress, done.signal),
        death(worker, done.signal),
        aborted(signal, done.signal),
      ]);
      worker.unref();
      this.#idle.push(worker);
      return result;
    } catch (error) {
      await worker.terminate();
      throw error;
    } finally {
      done.abort();
    }
  }

  /** Ends the threads. No layer may be under way. */
  async close(): Promise<void> {
    await Promise.all(this.#idle.splice(0).map((worker) => worker.terminate()));
  }
}

function startWorker(): Worker {
  return new Worker(WORKER_URL, { resourceLimits: { maxYoungGenerationSizeMb: MAX_YOUNG_GENERATION_MIB } });
}

/** @param done aborted when nobody listens any more */
function converse(
  worker: Worker,
  task: LayerTask,
  parentPaths: () => Promise<readonly string[]>,
  onProgress: (compressedBytes: number) => void,
  done: AbortSignal,
): Promise<LayerResult> {
  return new Promise((resolve, reject) => {
    const say = (request: LayerRequest) => worker.postMessage(request);
    const listen = (message: LayerMessage) => {
      switch (message.type) {
        case 'progress':
          onProgress(message.bytes);
          return;
        case 'staged':
          parentPaths().then((paths) => say({ type: 'assemble', parentPaths: paths }), reject);
          return;
        case 'done':
          resolve(message.result);
          return;
        case 'failed':
          reject(new ConvertError(message.code, message.message));
          return;
      }
    };
    worker.on('message', listen);
    done.addEventListener('abort', () => worker.off('message', listen));
    say({ type: 'convert', task });
  });
}

/** Rejects when the thread ends, which it never does by itself. */
async function death(worker: Worker, done: AbortSignal): Promise<never> {
  const [code] = await once(worker, 'exit', { signal: done });
  throw new ConvertError('ERR_CONVERT_WORKER', `the layer's thread ended with code ${code} and no result`);
}

async function aborted(signal: AbortSignal, done: AbortSignal): Promise<never> {
  await once(signal, 'abort', { signal: done });
  throw signal.reason;
}

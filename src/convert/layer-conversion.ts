import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { ConvertError } from './errors.ts';
import type { AssembleRequest, LayerMessage, LayerResult, LayerTask } from './layer-protocol.ts';

const WORKER_URL = new URL(
  import.meta.url.endsWith('.ts') ? './layer-worker.ts' : './layer-worker.js',
  import.meta.url,
);

/**
 * Most of what a layer's thread allocates are buffers, which the collector hardly counts: with a small young
 * generation it looks often enough. A third less memory for a layer of 100,000 files, in the same time.
 */
const MAX_YOUNG_GENERATION_MIB = 16;

/**
 * Converts one layer in a thread of its own. `parentPaths` is awaited only when the layer is read: its blobs,
 * bottom first, are what directories and inodes build on. Rejects with ConvertError, or the signal's reason;
 * what stands at `outputPath` is then for the caller to remove.
 */
export async function convertLayer(
  task: LayerTask,
  parentPaths: () => Promise<readonly string[]>,
  options: { onProgress: (compressedBytes: number) => void; signal: AbortSignal },
): Promise<LayerResult> {
  options.signal.throwIfAborted();
  const worker = new Worker(WORKER_URL, {
    workerData: task,
    resourceLimits: { maxYoungGenerationSizeMb: MAX_YOUNG_GENERATION_MIB },
  });
  const gone = new AbortController();
  const stop = () => gone.abort(options.signal.reason);
  options.signal.addEventListener('abort', stop);
  try {
    return await Promise.race([
      converse(worker, parentPaths, options.onProgress),
      death(worker),
      aborted(gone.signal),
    ]);
  } finally {
    options.signal.removeEventListener('abort', stop);
    await worker.terminate();
  }
}

function converse(
  worker: Worker,
  parentPaths: () => Promise<readonly string[]>,
  onProgress: (compressedBytes: number) => void,
): Promise<LayerResult> {
  return new Promise((resolve, reject) => {
    worker.on('message', (message: LayerMessage) => {
      switch (message.type) {
        case 'progress':
          onProgress(message.bytes);
          return;
        case 'staged':
          parentPaths().then((paths) => {
            const request: AssembleRequest = { parentPaths: paths };
            worker.postMessage(request);
          }, reject);
          return;
        case 'done':
          resolve(message.result);
          return;
        case 'failed':
          reject(new ConvertError(message.code, message.message));
          return;
      }
    });
  });
}

/** Rejects when the thread ends without having said why. */
async function death(worker: Worker): Promise<never> {
  const [code] = await once(worker, 'exit');
  throw new ConvertError('ERR_CONVERT_WORKER', `the layer's thread ended with code ${code} and no result`);
}

async function aborted(signal: AbortSignal): Promise<never> {
  await once(signal, 'abort');
  throw signal.reason;
}

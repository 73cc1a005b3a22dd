/** How much more all processors of this machine do than one alone: threads of one core share what it has. */
import { once } from 'node:events';
import { cpus } from 'node:os';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';

const ROUNDS = 5;
const ROUND_MS = 600;
/** Until the code has been compiled. */
const WARM_UP_MS = 300;

/** Work that all processors do in the time in which one alone does 1: the middle one of some rounds. */
export async function parallelWork(): Promise<number> {
  const ratios: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const [one, all] = [await workOf(1), await workOf(cpus().length)];
    ratios.push(all / one);
  }
  return Math.min(cpus().length, ratios.toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)]!);
}

async function workOf(threads: number): Promise<number> {
  const workers = Array.from({ length: threads }, () => new Worker(new URL(import.meta.url)));
  try {
    await Promise.all(workers.map((worker) => once(worker, 'online')));
    const done = workers.map((worker) => once(worker, 'message') as Promise<[number]>);
    for (const worker of workers) worker.postMessage('begin');
    return (await Promise.all(done)).reduce((sum, [count]) => sum + count, 0);
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** What a daemon does: objects, text, and hashes. */
function work(forMs: number): number {
  let count = 0;
  for (const endMs = performance.now() + forMs; performance.now() < endMs; count++) {
    const made = Array.from({ length: 100 }, (_, at) => ({ at, text: `${at}`.repeat(20) }));
    JSON.parse(JSON.stringify(made));
  }
  return count;
}

if (!isMainThread) {
  parentPort!.once('message', () => {
    work(WARM_UP_MS);
    parentPort!.postMessage(work(ROUND_MS));
  });
}

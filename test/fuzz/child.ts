/**
 * Fuzzes one target, in a process of its own: what a reader does to it, a crash of native code too, is seen from
 * outside. Started by runner.ts; the number of the input at hand stands in the status file all the time.
 */
import { openSync, writeSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises';
import { Random } from './random.ts';
import type { Order, Outcome } from './runner.ts';
import { type FuzzTarget, isTyped, Violation } from './target.ts';
import { openTarget } from './targets.ts';

/** No reader needs one buffer longer than this, whatever the input claims... */
const MAX_BUFFER_BYTES = 4 * 1024 * 1024;
/** ...unless the input is long itself. */
const MAX_BUFFER_PER_INPUT_BYTE = 4;
/** Of the whole process. What stands on the JavaScript heap is bounded by the runner's flags. */
const MAX_RSS_BYTES = 512 * 1024 * 1024;

const INPUTS_PER_TURN = 50;

let allowedBytes = Number.POSITIVE_INFINITY;

/** Lets each way to make a buffer complain about lengths that no reader may ask for. */
function watchAllocations(): void {
  for (const name of ['alloc', 'allocUnsafe', 'allocUnsafeSlow'] as const) {
    const original = Buffer[name].bind(Buffer) as (size: number, ...rest: unknown[]) => Buffer<ArrayBuffer>;
    Buffer[name] = (size: number, ...rest: unknown[]) => {
      if (size > allowedBytes)
        throw new Violation(`a buffer of ${size} bytes is asked for, ${allowedBytes} are allowed`);
      return original(size, ...rest);
    };
  }
}

async function attempt(target: FuzzTarget, input: Buffer, random: Random): Promise<string | null> {
  const code = await readingOf(target, input, random);
  if (process.memoryUsage.rss() > MAX_RSS_BYTES) {
    // Buffers that nobody holds any more do not count.
    await collectGarbage();
    const rss = process.memoryUsage.rss();
    if (rss > MAX_RSS_BYTES) throw new Violation(`the process has come to ${rss} bytes of memory`);
  }
  return code;
}

async function collectGarbage(): Promise<void> {
  await globalThis.gc?.({ execution: 'async' });
  // What was found to be garbage is given back in the background.
  await delay(100);
}

/** Null, or the code with which the input was refused. */
async function readingOf(target: FuzzTarget, input: Buffer, random: Random): Promise<string | null> {
  allowedBytes = MAX_BUFFER_BYTES + MAX_BUFFER_PER_INPUT_BYTE * input.length;
  try {
    await target.run(input, random);
    return null;
  } catch (error) {
    if (isTyped(error)) return error.code;
    throw error;
  } finally {
    allowedBytes = Number.POSITIVE_INFINITY;
  }
}

async function fuzz(order: Order, status: number): Promise<Outcome> {
  const target = await openTarget(order.target);
  const outcome: Outcome = { inputs: 0, accepted: 0, refused: {}, failure: null };
  const report = (iteration: number, error: unknown): Outcome => ({
    ...outcome,
    failure: { iteration, reason: error instanceof Error ? (error.stack ?? error.message) : String(error) },
  });
  try {
    for (const [index, input] of target.corpus.entries()) {
      const code = await attempt(target, input, new Random(index));
      if (code !== null) return report(-1 - index, `the well-formed input ${index} is refused: ${code}`);
    }
    const deadline = performance.now() + order.seconds * 1000;
    for (let iteration = order.from; iteration < order.to && performance.now() < deadline; iteration++) {
      // Memory of native handles is given back between turns of the event loop only.
      if (iteration % INPUTS_PER_TURN === 0) await nextTurn();
      writeSync(status, `${iteration}\n`.padStart(16), 0);
      const random = new Random(order.target, order.seed, iteration);
      const input = target.mutate(random.pick(target.corpus), random, random.pick(target.corpus));
      try {
        const code = await attempt(target, input, random);
        outcome.inputs++;
        if (code === null) outcome.accepted++;
        else outcome.refused[code] = (outcome.refused[code] ?? 0) + 1;
      } catch (error) {
        return report(iteration, error);
      }
    }
    return outcome;
  } finally {
    await target.close?.();
  }
}

const [order, statusPath] = process.argv.slice(2) as [string, string];
watchAllocations();
const outcome = await fuzz(JSON.parse(order) as Order, openSync(statusPath, 'r+'));
process.send?.(outcome, () => process.exit());

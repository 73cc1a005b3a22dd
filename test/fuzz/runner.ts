import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** What a child process shall do: inputs `from` to `to`, but no longer than `seconds`. */
export interface Order {
  readonly target: string;
  readonly seed: string;
  readonly from: number;
  readonly to: number;
  readonly seconds: number;
}

export interface Outcome {
  /** That were read without a failure. */
  inputs: number;
  accepted: number;
  /** How many were refused, by the error's code. */
  refused: Record<string, number>;
  /** `iteration` with the same target and seed makes the same input again; below 0, it is one of the corpus. */
  failure: { readonly iteration: number; readonly reason: string } | null;
}

/** An input takes milliseconds; this is what a loaded machine may make of them. */
const MAX_INPUT_SECONDS = 20;
const POLL_MS = 250;
const HEAP_FLAGS = ['--max-old-space-size=192', '--expose-gc'];

/** Fuzzes a target in a child process, and says how it went: also that the process died, or had to be ended. */
export async function fuzzTarget(order: Order): Promise<Outcome> {
  const scratch = mkdtempSync(join(tmpdir(), 'dadi-fuzz-'));
  const status = join(scratch, 'status');
  writeFileSync(status, '');
  const child = fork(new URL('./child.ts', import.meta.url), [JSON.stringify(order), status], {
    execArgv: HEAP_FLAGS,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, TMPDIR: scratch },
  });
  let outcome: Outcome | null = null;
  child.on('message', (message) => {
    outcome = message as Outcome;
  });
  let errors = '';
  child.stderr?.on('data', (text: Buffer) => {
    errors = `${errors}${text}`.slice(-4000);
  });
  const ended = new AbortController();
  try {
    const exit = once(child, 'close');
    const hung = watch(status, ended.signal);
    const first = await Promise.race([exit, hung]);
    if (typeof first === 'string') child.kill('SIGKILL');
    const [code, signal] = await exit;
    if (outcome !== null) return outcome;
    const how = typeof first === 'string' ? first : `the process ended with ${signal ?? code}: ${errors}`;
    return { inputs: 0, accepted: 0, refused: {}, failure: { iteration: iterationOf(status), reason: how } };
  } finally {
    ended.abort();
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Resolves when the child has been at one input for too long; never, if it is over before. */
async function watch(status: string, ended: AbortSignal): Promise<string> {
  let last = '';
  let since = performance.now();
  while (!ended.aborted) {
    await delay(POLL_MS, undefined, { signal: ended }).catch(() => {});
    const now = ended.aborted ? last : readFileSync(status, 'utf8');
    if (now !== last) {
      last = now;
      since = performance.now();
    } else if (performance.now() - since > MAX_INPUT_SECONDS * 1000) {
      return `the reader hangs: one input for more than ${MAX_INPUT_SECONDS} s`;
    }
  }
  return new Promise(() => {});
}

function iterationOf(status: string): number {
  return Number.parseInt(readFileSync(status, 'utf8').trim(), 10);
}

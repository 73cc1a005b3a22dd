import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

const STOP_PATIENCE_MS = 15_000;
const OUTPUT_TAIL_CHARS = 4000;

export interface ProcessOptions {
  readonly signal?: AbortSignal;
  /** Added to this process's environment. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Called once, when the first byte of standard output arrives. */
  readonly onFirstOutput?: () => void;
}

/** A program that ended otherwise than with exit code 0, or could not be started. */
export class ProcessError extends Error {
  readonly code = 'ERR_PROCESS_FAILED';
}

/**
 * Runs a program to its end.
 * @returns its standard output
 * @throws ProcessError with the end of what it printed; the signal's reason when aborted, after it has ended
 */
export async function run(
  command: string,
  args: readonly string[],
  options: ProcessOptions = {},
): Promise<string> {
  options.signal?.throwIfAborted();
  const child = spawnGroup(command, args, options);
  let output = '';
  let errors = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    if (output === '') options.onFirstOutput?.();
    output += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-OUTPUT_TAIL_CHARS);
  });
  const abort = () => void stopGroup(child);
  options.signal?.addEventListener('abort', abort, { once: true });
  const ending = await ended(child);
  options.signal?.removeEventListener('abort', abort);
  options.signal?.throwIfAborted();
  if (ending !== 0) {
    const said = `${errors}\n${output}`.trim().slice(-OUTPUT_TAIL_CHARS);
    throw new ProcessError(`${command} ${args.join(' ')}: ${describe(ending)}\n${said}`);
  }
  return output;
}

/** A program that goes on until it is stopped. */
export class Service {
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<number | string>;
  #ending: number | string | null = null;
  #said = '';

  constructor(name: string, command: string, args: readonly string[], options: ProcessOptions = {}) {
    this.#name = name;
    this.#child = spawnGroup(command, args, options);
    const remember = (text: string) => {
      this.#said = (this.#said + text).slice(-OUTPUT_TAIL_CHARS);
    };
    this.#child.stdout?.setEncoding('utf8').on('data', remember);
    this.#child.stderr?.setEncoding('utf8').on('data', remember);
    this.#ended = ended(this.#child).then((ending) => {
      this.#ending = ending;
      return ending;
    });
  }

  /** Waits until `probe` says yes. @throws ProcessError when the program ends before, or after `patienceMs` */
  async ready(probe: () => Promise<boolean>, patienceMs: number, signal: AbortSignal): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!(await probe())) {
      signal.throwIfAborted();
      this.checkAlive();
      if (performance.now() > deadline) {
        throw new ProcessError(`${this.#name} is not ready after ${patienceMs} ms\n${this.#said}`);
      }
      await sleep(50, undefined, { signal });
    }
  }

  /** @throws ProcessError with the last words of the program if it has ended */
  checkAlive(): void {
    if (this.#ending === null) return;
    throw new ProcessError(`${this.#name} has ended: ${describe(this.#ending)}\n${this.#said}`);
  }

  /** Asks the program to end, waits until it has, and makes it if it will not. */
  async stop(): Promise<void> {
    await stopGroup(this.#child);
    await this.#ended;
  }
}

/**
 * Each program leads a process group of its own: Ctrl-C at the terminal reaches only us, and we end what we started
 * in our own order; and what a program started in turn ends with it.
 */
function spawnGroup(command: string, args: readonly string[], options: ProcessOptions): ChildProcess {
  return spawn(command, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.environment },
  });
}

/** Resolves with the exit code, the signal's name, or why the program could not be started. */
function ended(child: ChildProcess): Promise<number | string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'unknown'));
  });
}

async function stopGroup(child: ChildProcess): Promise<void> {
  const pid = child.pid;
  if (pid === undefined) return;
  signalGroup(pid, 'SIGTERM');
  const deadline = performance.now() + STOP_PATIENCE_MS;
  while (groupExists(pid) && performance.now() < deadline) await sleep(20);
  signalGroup(pid, 'SIGKILL');
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // The group has ended already.
  }
}

function groupExists(pid: number): boolean {
  try {
    process.kill(-pid, 0);
    return true;
  } catch {
    return false;
  }
}

function describe(ending: number | string): string {
  return typeof ending === 'number' ? `exit code ${ending}` : ending;
}

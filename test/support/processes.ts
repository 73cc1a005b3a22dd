import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

const READY_POLL_MS = 20;
const READY_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;
const LOG_TAIL_CHARS = 4000;

export interface RunOptions {
  readonly cwd?: string;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

/** A program that could not be started, failed, or ended too early. */
export class ProcessError extends Error {
  override readonly name = 'ProcessError';
  readonly code = 'ERR_PROCESS';
  /** What it wrote to standard error (for a started one: to its log), or the end of that. */
  readonly stderr: string;

  constructor(message: string, stderr: string, options?: ErrorOptions) {
    super(stderr === '' ? message : `${message}\n${stderr}`, options);
    this.stderr = stderr;
  }
}

/**
 * Runs a program to its end, without input. Rejects with {@link ProcessError} if its exit status is not 0, and with
 * the signal's reason when aborted, after it has ended.
 */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<{ stdout: string; stderr: string }> {
  options.signal?.throwIfAborted();
  const child = spawn(command, args, {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const abort = () => child.kill('SIGKILL');
  options.signal?.addEventListener('abort', abort, { once: true });
  const [stdout, stderr, ending] = await Promise.all([
    buffer(child.stdout),
    buffer(child.stderr),
    endingOf(child),
  ]);
  options.signal?.removeEventListener('abort', abort);
  options.signal?.throwIfAborted();
  if (ending !== 'exit code 0') {
    throw new ProcessError(`${command} ${args.join(' ')}: ${ending}`, tail(stderr.toString()));
  }
  return { stdout: stdout.toString(), stderr: stderr.toString() };
}

export interface StartOptions extends RunOptions {
  /** Asked again and again until it says yes; an error counts as a no. */
  readonly readyWhen: () => Promise<boolean> | boolean;
  readonly readyTimeoutMs?: number;
  /** A file that takes what the program writes. */
  readonly logPath: string;
  /** Asks it to end. SIGTERM unless it is given. */
  readonly stopSignal?: NodeJS.Signals;
}

/** A program in the background. */
export interface StartedProcess {
  readonly pid: number;
  readonly logPath: string;
  /** How it ended ("exit code 0", "SIGKILL"), once it has. */
  readonly ended: Promise<string>;
  /** Ends it: by its signal, and after ten seconds by SIGKILL. Resolves once it has ended; may be called again. */
  stop(): Promise<void>;
}

/** What must not outlive the tests, however these end. */
const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Starts a program and waits until it is ready. Rejects with {@link ProcessError}, after it has ended. */
export async function start(
  command: string,
  args: readonly string[],
  options: StartOptions,
): Promise<StartedProcess> {
  options.signal?.throwIfAborted();
  const log = openSync(options.logPath, 'a');
  const child = spawn(command, args, {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { ...process.env, ...options.env },
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  running.add(child);
  let ending: string | null = null;
  const ended = endingOf(child).then((how) => {
    running.delete(child);
    ending = how;
    return how;
  });
  const stop = () => stopChild(child, ended, options.stopSignal ?? 'SIGTERM');
  const timeoutMs = options.readyTimeoutMs ?? READY_TIMEOUT_MS;
  const deadline = performance.now() + timeoutMs;
  const fail = (what: string) =>
    new ProcessError(`${command} ${args.join(' ')}: ${what}`, tail(readFileSync(options.logPath, 'utf8')));
  try {
    while (!(await isReady(options.readyWhen))) {
      if (ending !== null) throw fail(`it ended before it was ready: ${ending}`);
      if (performance.now() > deadline) throw fail(`not ready after ${timeoutMs} ms`);
      await sleep(READY_POLL_MS, undefined, options.signal === undefined ? {} : { signal: options.signal });
    }
    if (ending !== null || child.pid === undefined) throw fail(`it ended before it was ready: ${ending}`);
  } catch (error) {
    await stop();
    options.signal?.throwIfAborted();
    throw error;
  }
  return { pid: child.pid, logPath: options.logPath, ended, stop };
}

/** A TCP port of 127.0.0.1 that nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('a TCP server has no port');
  return address.port;
}

async function isReady(readyWhen: StartOptions['readyWhen']): Promise<boolean> {
  try {
    return await readyWhen();
  } catch {
    return false;
  }
}

async function stopChild(child: ChildProcess, ended: Promise<string>, signal: NodeJS.Signals): Promise<void> {
  child.kill(signal);
  const timeout = new AbortController();
  const patience = sleep(STOP_TIMEOUT_MS, 'patience', { signal: timeout.signal }).catch(() => 'ended');
  if ((await Promise.race([ended, patience])) === 'patience') child.kill('SIGKILL');
  timeout.abort();
  await ended;
}

function endingOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(code === null ? String(signal) : `exit code ${code}`));
  });
}

function tail(text: string): string {
  return text.trim().slice(-LOG_TAIL_CHARS);
}

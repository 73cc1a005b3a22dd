import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, rmSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { ClientError } from '../errors.ts';
import type { ConversionProgress } from '../image/conversion-wait.ts';
import { mountId, mountPaths } from './mount-paths.ts';
import type { MountState } from './mount-state.ts';
import { makePrivateDirectory } from './private-directory.ts';

/** What a mount's process tells the one that started it. */
export type MountMessage =
  | { readonly type: 'progress'; readonly progress: ConversionProgress }
  | { readonly type: 'ready'; readonly state: MountState }
  /** It will end. `reasons`: the error's message and those of its causes. */
  | { readonly type: 'failed'; readonly code: string; readonly reasons: readonly string[] };

export interface LaunchOptions {
  /** A command line that mounts in the foreground and sends {@link MountMessage}s over its IPC channel. */
  readonly command: readonly [string, ...string[]];
  readonly directory: string;
  readonly runDirectory: string;
  readonly onProgress?: (progress: ConversionProgress) => void;
  readonly signal?: AbortSignal;
}

/** The mount's process gave up; its own words. */
export class MountFailedError extends Error {
  override readonly name = 'MountFailedError';
  readonly code: string;

  constructor(code: string, reasons: readonly string[]) {
    const [message = 'the mount failed', ...causes] = reasons;
    super(message, causes.length === 0 ? {} : { cause: new Error(causes.join('\n  because: ')) });
    this.code = code;
  }
}

/**
 * Starts a process that holds a mount in the background, and waits until it is mounted. The process outlives
 * this one; until it is ready, it ends with it.
 * @throws MountFailedError with the reason of the mount's process; ClientError ERR_MOUNT_DAEMON; the signal's reason
 */
export async function launchMount(options: LaunchOptions): Promise<MountState> {
  const { runDirectory, signal } = options;
  signal?.throwIfAborted();
  makePrivateDirectory(runDirectory);
  const directory = await realpath(options.directory).catch(() => resolve(options.directory));
  const { logFile, workDirectory } = mountPaths(runDirectory, mountId(directory));
  const child = startProcess(options.command, logFile);
  const stop = () => child.kill('SIGTERM');
  signal?.addEventListener('abort', stop, { once: true });
  try {
    const state = await firstWord(child, options, logFile);
    child.disconnect();
    child.unref();
    return state;
  } catch (error) {
    // Unless it is the log of another mount, or says more than the error does.
    if (error instanceof MountFailedError && !existsSync(workDirectory)) rmSync(logFile, { force: true });
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** In a session of its own, and not in a directory that somebody may want to unmount. */
function startProcess([program, ...args]: readonly [string, ...string[]], logFile: string): ChildProcess {
  const log = openSync(logFile, 'a', 0o600);
  try {
    return spawn(program, args, { cwd: '/', detached: true, stdio: ['ignore', log, log, 'ipc'] });
  } finally {
    closeSync(log);
  }
}

/** Ready, or why not; in that case only after the process has ended, when it has cleaned up. */
function firstWord(child: ChildProcess, options: LaunchOptions, logFile: string): Promise<MountState> {
  return new Promise((resolve, reject) => {
    let failure: Error | null = null;
    child.on('message', (message: MountMessage) => {
      if (message.type === 'progress') options.onProgress?.(message.progress);
      else if (message.type === 'ready') resolve(message.state);
      else failure = new MountFailedError(message.code, message.reasons);
    });
    child.once('error', reject);
    child.once('exit', (code, killedBy) => {
      const how = killedBy ?? `exit code ${code}`;
      const died = `the process that was to hold the mount ended (${how}); see ${logFile}`;
      reject(failure ?? new ClientError('ERR_MOUNT_DAEMON', died));
    });
  });
}

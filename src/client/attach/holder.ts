import { spawn } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { isSystemError } from '../../format/error-code.ts';
import { type NativeCall, nativeCall } from '../../format/libc.ts';
import { ClientError } from '../errors.ts';
import type { AttachPaths } from './attach-paths.ts';
import { takeDescriptor } from './pidfd.ts';
import { hasEnded, identifyProcess, isRunning, type ProcessIdentity, signalProcess } from './processes.ts';
import { missingProgram } from './programs.ts';

/** Which descriptor of the holder is the held one. */
const HELD_FD = 3;
const EXIT_TIMEOUT_MS = 5_000;

let mkfifoCall: NativeCall | null = null;

/**
 * A process that does nothing but keep a descriptor of /dev/fuse open. While any process does, the kernel keeps the file
 * system, and requests wait; so this daemon may end, even by kill -9, and the next one takes the descriptor from here.
 *
 * It is a `cat` of a FIFO that it has open for writing itself, so that nothing ever comes of it. In a session of its own,
 * since Ctrl-C and the like are not for it.
 */
export class Holder {
  /** Resolves when the process has ended, however. */
  readonly ended: Promise<void>;
  readonly #identity: ProcessIdentity;
  readonly #watch: Socket;

  private constructor(identity: ProcessIdentity, fifo: string) {
    this.#identity = identity;
    // The end of the file comes when nobody has it open for writing any more.
    const fd = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    this.#watch = new Socket({ fd, readable: true, writable: false });
    this.#watch.on('error', () => {}).unref();
    this.ended = new Promise((resolve) => this.#watch.once('close', () => resolve()));
    this.#watch.resume();
  }

  /** @throws ClientError ERR_ATTACH_UNSUPPORTED, ERR_ATTACH_FAILED */
  static async start(paths: AttachPaths, heldFd: number): Promise<Holder> {
    const { holderFifo, holderPid } = paths;
    await rm(holderFifo, { force: true });
    mkfifoCall ??= nativeCall('mkfifo', 'int mkfifo(const char *, unsigned int)');
    await mkfifoCall(holderFifo, 0o600);
    const fifo = openSync(holderFifo, constants.O_RDWR);
    try {
      const child = spawn('cat', [holderFifo], {
        cwd: '/',
        detached: true,
        stdio: [fifo, 'ignore', 'ignore', heldFd],
      });
      const pid = await new Promise<number>((resolve, reject) => {
        child.once('spawn', () => resolve(child.pid!));
        child.once('error', (error) => reject(missingProgram('cat', error)));
      });
      child.unref();
      await writeFile(holderPid, String(pid));
      const identity = await identifyProcess(pid);
      if (identity === null) throw new ClientError('ERR_ATTACH_FAILED', 'the holder process ended at once');
      return new Holder(identity, holderFifo);
    } finally {
      closeSync(fifo);
    }
  }

  /** The holder that runs for these paths, or null. */
  static async find(paths: AttachPaths): Promise<Holder | null> {
    const identity = await findProcess(paths);
    if (identity === null) return null;
    const holder = new Holder(identity, paths.holderFifo);
    // Of a process that ended before the FIFO was open nothing would be heard.
    if (await isRunning(identity)) return holder;
    holder.release();
    return null;
  }

  isRunning(): Promise<boolean> {
    return isRunning(this.#identity);
  }

  /** A descriptor of our own for what it holds. @throws SystemCallError */
  take(): number {
    return takeDescriptor(this.#identity.pid, HELD_FD);
  }

  /** Forgets it without ending it. */
  release(): void {
    this.#watch.destroy();
  }

  /** @throws ClientError ERR_DETACH_FAILED if it does not end */
  async end(): Promise<void> {
    // Nothing in it could be done in order.
    await signalProcess(this.#identity, 'SIGKILL');
    if (!(await hasEnded(this.#identity, EXIT_TIMEOUT_MS))) {
      throw new ClientError('ERR_DETACH_FAILED', `the holder process ${this.#identity.pid} does not end`);
    }
    this.#watch.destroy();
  }
}

async function findProcess({ holderFifo, holderPid }: AttachPaths): Promise<ProcessIdentity | null> {
  if (!hasReader(holderFifo)) return null;
  const noted = (await readIfThere(holderPid)).trim();
  for (const pid of [noted, ...(await readdir('/proc'))]) {
    if (!/^\d+$/.test(pid)) continue;
    const commandLine = await readIfThere(`/proc/${pid}/cmdline`);
    if (commandLine === `cat\0${holderFifo}\0`) return identifyProcess(Number(pid));
  }
  return null;
}

/** A FIFO opens for writing at once if somebody reads it, and else not (fifo(7)). Throws if neither can be told. */
function hasReader(fifo: string): boolean {
  try {
    closeSync(openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK));
    return true;
  } catch (error) {
    if (isSystemError(error, 'ENXIO', 'ENOENT')) return false;
    throw error;
  }
}

/** Empty if there is no such file, or no such process any more. */
async function readIfThere(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'ESRCH')) return '';
    throw error;
  }
}

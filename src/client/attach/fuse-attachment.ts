import { closeSync, constants, openSync } from 'node:fs';
import { stat, statfs, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { isSystemError } from '../../format/error-code.ts';
import { ClientError } from '../errors.ts';
import type { Attachment, AttachOptions } from './attach-contract.ts';
import { type AttachPaths, attachPaths } from './attach-paths.ts';
import { FuseConnection } from './fuse-connection.ts';
import { Holder } from './holder.ts';
import { mountFuseFile, mountReadOnly, unmount } from './linux-mount.ts';
import { addLoop } from './loop-devices.ts';
import { detachRemains, findAttached, removeBelow, Steps } from './remains.ts';

type FuseMethod = 'file' | 'loop';

interface Served {
  readonly paths: AttachPaths;
  readonly fd: number;
  readonly connection: FuseConnection;
  /** Null if reads are to fail when this process is killed. */
  readonly holder: Holder | null;
}

/** The kernel says goodbye a moment after the last mount is gone. */
const GOODBYE_TIMEOUT_MS = 5_000;
/** A lazy detach does not wait for the users of the image. */
const LAZY_GOODBYE_TIMEOUT_MS = 300;
/** What is being read is answered before a release, on kernels that would not send it again: within that, or EIO. */
const DRAIN_TIMEOUT_MS = 5_000;
/** After a holder could not be started. */
const HOLDER_RESTART_MS = 1_000;

/** A device that this process serves to the kernel by FUSE, and the file system mounted from it. */
export class FuseAttachment implements Attachment {
  readonly method: FuseMethod;
  readonly target: string;
  readonly ended: Promise<void>;
  readonly #workDirectory: string;
  readonly #paths: AttachPaths;
  readonly #connection: FuseConnection;
  readonly #fd: number;
  #holder: Holder | null;
  /** Starts of holders, one after the other. */
  #held: Promise<void> = Promise.resolve();
  #isReleased = false;
  #detaching: Promise<void> | null = null;
  #cleaningUp: Promise<void> | null = null;

  private constructor(method: FuseMethod, options: AttachOptions, served: Served) {
    this.method = method;
    this.target = options.target;
    this.#workDirectory = options.workDirectory;
    this.#paths = served.paths;
    this.#fd = served.fd;
    this.#connection = served.connection;
    this.#holder = served.holder;
    this.ended = this.#connection.ended.then(() => this.#cleanUp());
    // Who waits for it is told; nobody has to.
    this.ended.catch(() => {});
    void this.#keepHeld();
  }

  /** @throws ClientError ERR_ATTACH_FAILED; SystemCallError; the signal's reason: then nothing is left */
  static async attach(method: FuseMethod, options: AttachOptions): Promise<FuseAttachment> {
    const paths = await attachPaths(options.workDirectory);
    const fd = openSync('/dev/fuse', constants.O_RDWR | constants.O_NONBLOCK);
    let connection: FuseConnection | null = null;
    let holder: Holder | null = null;
    try {
      await writeFile(paths.deviceFile, '', { mode: 0o600 });
      await mountFuseFile(fd, paths.deviceFile);
      connection = new FuseConnection(fd, options);
      if (options.whenKilled !== 'fail') holder = await Holder.start(paths, fd);
      // The kernel asks for the file's size only when somebody does, and a loop device takes what it knows.
      await stat(paths.deviceFile);
      options.signal?.throwIfAborted();
      const mounted = await mountImage(method, paths, options);
      return new FuseAttachment(mounted, options, { paths, fd, connection, holder });
    } catch (error) {
      holder?.release();
      if (connection === null) closeSync(fd);
      await detachRemains(options.workDirectory);
      await connection?.stop();
      throw error;
    }
  }

  /** Null if no process holds the attachment, or it is not mounted there. @throws SystemCallError */
  static async resume(options: AttachOptions): Promise<FuseAttachment | null> {
    const paths = await attachPaths(options.workDirectory);
    const { targets, loopDevices } = await findAttached(paths);
    if (!targets.includes(options.target)) return null;
    const holder = await Holder.find(paths);
    if (holder === null) return null;
    const fd = takeHeld(holder);
    if (fd === null) return null;
    const connection = new FuseConnection(fd, options);
    try {
      if (!connection.resend()) {
        connection.failOlder();
        // A request, so that there is a next one. The kernel does not answer it by itself.
        void statfs(paths.deviceFile).catch(() => {});
      }
    } catch (error) {
      holder.release();
      await connection.stop();
      throw error;
    }
    const method = loopDevices.length > 0 ? 'loop' : 'file';
    return new FuseAttachment(method, options, { paths, fd, connection, holder });
  }

  detach(options: { readonly lazy: boolean }): Promise<void> {
    this.#detaching ??= this.#detach(options).catch((error) => {
      this.#detaching = null;
      throw error;
    });
    return this.#detaching;
  }

  async release(): Promise<void> {
    // Without one the file system would end with this process.
    await this.#ensureHeld();
    this.#isReleased = true;
    this.#holder?.release();
    if (!this.#connection.kernelResends) await this.#connection.drain(DRAIN_TIMEOUT_MS);
    await this.#connection.stop();
  }

  async #detach({ lazy }: { readonly lazy: boolean }): Promise<void> {
    const steps = new Steps();
    for (const target of (await findAttached(this.#paths)).targets) {
      try {
        await unmount(target, { lazy });
      } catch (error) {
        if (isSystemError(error, 'EBUSY')) throw busy(target, error);
        if (!isSystemError(error, 'EINVAL', 'ENOENT')) await steps.try(Promise.reject(error));
      }
    }
    await removeBelow(this.#paths, steps, { lazy });
    const isOver = await this.#hasEnded(lazy ? LAZY_GOODBYE_TIMEOUT_MS : GOODBYE_TIMEOUT_MS);
    if (!isOver && !lazy) await this.#connection.stop();
    if (isOver || !lazy) await steps.try(this.#cleanUp());
    steps.check();
  }

  async #hasEnded(timeoutMs: number): Promise<boolean> {
    const timeout = new AbortController();
    const late = sleep(timeoutMs, false, { signal: timeout.signal }).catch(() => false);
    const isOver = await Promise.race([this.#connection.ended.then(() => true), late]);
    timeout.abort();
    return isOver;
  }

  /** Once the connection has ended; done anew after it failed. */
  #cleanUp(): Promise<void> {
    this.#cleaningUp ??= this.#removeRemains().catch((error) => {
      this.#cleaningUp = null;
      throw error;
    });
    return this.#cleaningUp;
  }

  /** What was not taken down in order: the connection may have been ended from outside. */
  async #removeRemains(): Promise<void> {
    if (this.#isReleased) return;
    await this.#held.catch(() => {});
    this.#holder?.release();
    await detachRemains(this.#workDirectory);
  }

  /** Starts another holder whenever one is killed. */
  async #keepHeld(): Promise<void> {
    while (this.#holder !== null && !this.#isReleased && this.#connection.isServing) {
      await this.#holder.ended;
      if (this.#isReleased || !this.#connection.isServing) return;
      await this.#ensureHeld().catch(() => sleep(HOLDER_RESTART_MS, undefined, { ref: false }));
    }
  }

  #ensureHeld(): Promise<void> {
    this.#held = this.#held
      .catch(() => {})
      .then(async () => {
        if (!this.#connection.isServing || (await this.#holder?.isRunning())) return;
        this.#holder?.release();
        this.#holder = await Holder.start(this.#paths, this.#fd);
      });
    return this.#held;
  }
}

/** Null on kernels that cannot, before Linux 5.6. @throws SystemCallError */
function takeHeld(holder: Holder): number | null {
  try {
    return holder.take();
  } catch (error) {
    holder.release();
    if (isSystemError(error, 'ENOSYS')) return null;
    throw error;
  }
}

/** EROFS from the file where the kernel can, else by a loop device. Tells which of them it was. */
async function mountImage(
  method: FuseMethod,
  { deviceFile }: AttachPaths,
  { fsType, target }: AttachOptions,
): Promise<FuseMethod> {
  try {
    if (method === 'file' && (await mountFromFile(deviceFile, target))) return 'file';
    // noload: a read-only device takes no journal replay.
    const data = fsType === 'ext4' ? 'noload' : null;
    await mountReadOnly(await addLoop(deviceFile), target, fsType, data);
    return 'loop';
  } catch (cause) {
    if (cause instanceof ClientError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ClientError('ERR_ATTACH_FAILED', `cannot mount ${fsType} on ${target}: ${reason}`, { cause });
  }
}

/** False where the kernel turns out to be built without that. */
async function mountFromFile(deviceFile: string, target: string): Promise<boolean> {
  try {
    // Past the file's page cache: EROFS has its own of what is in the files.
    await mountReadOnly(deviceFile, target, 'erofs', 'directio');
    return true;
  } catch (error) {
    if (isSystemError(error, 'ENOTBLK', 'EINVAL')) return false;
    throw error;
  }
}

function busy(target: string, cause: unknown): ClientError {
  return new ClientError(
    'ERR_MOUNT_BUSY',
    `${target} is in use (EBUSY): end what runs or works in it ("fuser -vm ${target}" lists it); it stays mounted`,
    { cause },
  );
}

import { realpath } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { isSystemError } from '../../format/error-code.ts';
import { ClientError } from '../errors.ts';
import { NbdConnection } from '../nbd/nbd-connection.ts';
import type { Attachment, AttachOptions } from './attach-contract.ts';
import { KernelNbdDevice } from './kernel-nbd-device.ts';
import { detachKernelNbd, targetsOf } from './kernel-nbd-remains.ts';
import { ignoreUnmounted, mountReadOnly, unmount } from './linux-mount.ts';
import { type Served, serveConnections } from './nbd-connections.ts';
import { type SocketPair, socketPair } from './socket-pair.ts';

/**
 * A read that a killed process had taken and not answered is asked again after that; so is one that just takes longer,
 * on a new connection, and finds there what was fetched meanwhile.
 */
const REQUEST_TIMEOUT_SECONDS = 30;
/** How long the kernel lets reads wait for a process that resumes the attachment. */
const RECONNECT_TIMEOUT_SECONDS = 24 * 60 * 60;
/** The kernel sees a moment late that the other end of a connection is gone. */
const LOST_TIMEOUT_MS = 5_000;
const POLL_MS = 20;
/** The kernel says goodbye a moment after the last mount is gone. */
const GOODBYE_TIMEOUT_MS = 5_000;
/** A lazy detach does not wait for the users of the image. */
const LAZY_GOODBYE_TIMEOUT_MS = 300;

/**
 * A device that this process serves to the kernel's NBD client, and the file system mounted from it. No process has to
 * hold anything: the kernel keeps the device when this one is killed, and takes a connection from the next one.
 */
export class KernelNbdAttachment implements Attachment {
  readonly method = 'nbd';
  readonly target: string;
  readonly ended: Promise<void>;
  readonly #options: AttachOptions;
  readonly #device: KernelNbdDevice;
  #served: ServedSocket;
  #isReleased = false;

  private constructor(options: AttachOptions, device: KernelNbdDevice, served: ServedSocket) {
    this.target = options.target;
    this.#options = options;
    this.#device = device;
    this.#served = served;
    this.ended = serveConnections(served, {
      isWanted: async () => !this.#isReleased && (await device.isConnected()),
      connect: () => this.#reconnect(),
      onFailure: (error) => options.onReadError?.(error, 0, 0),
    });
    // Who waits for it is told; nobody has to.
    this.ended.catch(() => {});
  }

  /** @throws ClientError ERR_ATTACH_UNSUPPORTED, ERR_ATTACH_FAILED; the signal's reason: then nothing is left */
  static async attach(options: AttachOptions): Promise<KernelNbdAttachment> {
    const backend = await realpath(options.workDirectory);
    const pair = socketPair();
    const served = serve(pair, options);
    try {
      const device = await KernelNbdDevice.connect({
        sizeBytes: options.device.size,
        socketFd: pair.otherFd,
        backend,
        requestTimeoutSeconds: REQUEST_TIMEOUT_SECONDS,
        reconnectTimeoutSeconds: options.whenKilled === 'fail' ? 0 : RECONNECT_TIMEOUT_SECONDS,
      });
      if (device === null)
        throw new ClientError('ERR_ATTACH_UNSUPPORTED', 'this kernel has no NBD: modprobe nbd');
      await mountImage(device.path, options);
      options.signal?.throwIfAborted();
      await device.disconnectOnClose();
      return new KernelNbdAttachment(options, device, served);
    } catch (error) {
      await detachKernelNbd(backend);
      pair.socket.destroy();
      throw error;
    } finally {
      pair.closeOther();
    }
  }

  /** Null if the kernel has no such device, or it is not mounted there. @throws SystemCallError */
  static async resume(options: AttachOptions): Promise<KernelNbdAttachment | null> {
    const device = await KernelNbdDevice.find(await realpath(options.workDirectory));
    if (device === null || !(await targetsOf(device)).includes(options.target)) return null;
    return new KernelNbdAttachment(options, device, await reconnect(device, options));
  }

  async detach({ lazy }: { readonly lazy: boolean }): Promise<void> {
    for (const target of await targetsOf(this.#device)) {
      await unmount(target, { lazy }).catch((error) => {
        if (isSystemError(error, 'EBUSY')) throw busy(target, error);
        ignoreUnmounted(error);
      });
    }
    if (await this.#hasEnded(lazy ? LAZY_GOODBYE_TIMEOUT_MS : GOODBYE_TIMEOUT_MS)) return;
    if (lazy) return;
    await this.#device.disconnect();
    await this.ended;
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    this.#served.socket.destroy();
    await this.ended;
  }

  /** Instead of a connection that the kernel gave up, over a read that took long. */
  async #reconnect(): Promise<Served> {
    this.#served = await reconnect(this.#device, this.#options);
    // Meanwhile, perhaps.
    if (this.#isReleased) this.#served.socket.destroy();
    return this.#served;
  }

  async #hasEnded(timeoutMs: number): Promise<boolean> {
    const timeout = new AbortController();
    const late = sleep(timeoutMs, false, { signal: timeout.signal }).catch(() => false);
    const isOver = await Promise.race([this.ended.then(() => true), late]);
    timeout.abort();
    return isOver;
  }
}

interface ServedSocket extends Served {
  readonly socket: Socket;
}

function serve({ socket }: SocketPair, { device, onReadError }: AttachOptions): ServedSocket {
  const served = { device, ...(onReadError && { onReadError }) };
  return { socket, farewell: new NbdConnection(socket, served).run({ isNegotiated: true }) };
}

async function reconnect(device: KernelNbdDevice, options: AttachOptions): Promise<ServedSocket> {
  const pair = socketPair();
  const served = serve(pair, options);
  const deadlineMs = performance.now() + LOST_TIMEOUT_MS;
  try {
    for (;;) {
      try {
        await device.reconnect(pair.otherFd);
        return served;
      } catch (error) {
        if (!isSystemError(error, 'ENOSPC') || performance.now() > deadlineMs) throw error;
        await sleep(POLL_MS);
      }
    }
  } catch (error) {
    pair.socket.destroy();
    throw error;
  } finally {
    pair.closeOther();
  }
}

async function mountImage(path: string, { fsType, target }: AttachOptions): Promise<void> {
  try {
    // noload: a read-only device takes no journal replay.
    await mountReadOnly(path, target, fsType, fsType === 'ext4' ? 'noload' : null);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ClientError('ERR_ATTACH_FAILED', `cannot mount ${fsType} on ${target}: ${reason}`, { cause });
  }
}

function busy(target: string, cause: unknown): ClientError {
  return new ClientError(
    'ERR_MOUNT_BUSY',
    `${target} is in use (EBUSY): end what runs or works in it ("fuser -vm ${target}" lists it); it stays mounted`,
    { cause },
  );
}

import { writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isSystemError } from '../../format/error-code.ts';
import { BufferPool } from '../nbd/buffer-pool.ts';
import type { NbdExport } from '../nbd/nbd-connection.ts';
import { readDescriptor } from './descriptor-reader.ts';
import {
  decodeRequest,
  encodeAttributes,
  encodeDone,
  encodeError,
  encodeInit,
  encodeOpened,
  encodeOtherMajor,
  encodeResend,
  encodeStatfs,
  type FuseRequest,
  isSpoken,
  REPLY_HEADER_BYTES,
  REPLY_UNIQUE_AT,
  REQUEST_BUFFER_BYTES,
  writeReplyHeader,
} from './fuse-protocol.ts';

export type FuseExport = Pick<NbdExport, 'device' | 'onReadError'>;

type ReadRequest = Extract<FuseRequest, { readonly kind: 'read' }>;

/** Requests are left in the kernel while so much of a device is being read. */
const MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024;
/** Reads that the kernel sends ahead of who waits for them: many, since those of lost chunks may wait for long. */
const MAX_BACKGROUND = 256;
/** Of all devices together. */
const MAX_IDLE_BYTES = 8 * 1024 * 1024;
/** How often a reader that got a signal is looked at again, whether it is one that ends it. */
const INTERRUPT_RECHECK_MS = 1_000;
const SIGKILL_BIT = 1n << BigInt(constants.signals.SIGKILL - 1);
const { EAGAIN, EINTR, EIO, ENOSYS } = constants.errno;

/** Linux numbers requests by twos; odd numbers are those of interrupts. */
const UNIQUE_STEP = 2n;
/** How far back requests are looked for that another process took and nobody answers: for at most a few seconds. */
const MAX_LOST_REQUESTS = 200_000;
const LOST_REQUESTS_PER_TURN = 500;

/** The reply comes too late: the request was given up, or the file system is gone. */
const GONE = ['ENOENT', 'ENODEV', 'EPERM', 'ECONNABORTED'];

const buffers = new BufferPool(MAX_IDLE_BYTES);

class Read {
  readonly request: ReadRequest;
  readonly abort = new AbortController();

  constructor(request: ReadRequest) {
    this.request = request;
  }
}

/** Serves a device as the one file of a FUSE file system, to the kernel at the other end of a /dev/fuse descriptor. */
export class FuseConnection {
  /** Resolves when the file system is gone, or after {@link stop}; no read of the device is under way any more. */
  readonly ended: Promise<void>;
  readonly #fd: number;
  readonly #export: FuseExport;
  readonly #socket: Socket;
  readonly #reads = new Set<Read>();
  readonly #running = new Set<Promise<void>>();
  readonly #rechecks = new Set<NodeJS.Timeout>();
  #inFlightBytes = 0;
  #kernelResends = false;
  #isDraining = false;
  #failsOlder = false;

  /** @param fd of /dev/fuse, opened not to block and mounted; owned from here on */
  constructor(fd: number, served: FuseExport) {
    this.#fd = fd;
    this.#export = served;
    this.#socket = readDescriptor(fd, Buffer.alloc(REQUEST_BUFFER_BYTES), (bytes) => this.#take(bytes));
    // ENODEV is how the kernel says goodbye; with any other error nothing can be served either.
    this.#socket.on('error', () => {});
    this.ended = new Promise<void>((resolve) => this.#socket.once('close', () => resolve())).then(() =>
      this.#settle(),
    );
  }

  /** Whether what this process does not answer can be answered by the next one. */
  get kernelResends(): boolean {
    return this.#kernelResends;
  }

  get isServing(): boolean {
    return !this.#socket.destroyed;
  }

  /** Takes up what another process read from this connection and did not answer. False before Linux 6.9. */
  resend(): boolean {
    try {
      writeSync(this.#fd, encodeResend());
      this.#kernelResends = true;
    } catch (error) {
      if (!isSystemError(error, 'EINVAL')) throw error;
    }
    return this.#kernelResends;
  }

  /**
   * Instead of {@link resend}: what another process read and did not answer gets EIO, as soon as the next request tells
   * which ones were before it.
   */
  failOlder(): void {
    this.#failsOlder = true;
  }

  /** Stops serving and closes the descriptor. Requests stay unanswered: who else holds it can take them up. */
  async stop(): Promise<void> {
    this.#socket.destroy();
    await this.ended;
  }

  /** Takes up nothing new, and answers what is being read: within that time, or else with EIO. */
  async drain(timeoutMs: number): Promise<void> {
    this.#isDraining = true;
    this.#socket.pause();
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, timeoutMs);
    await Promise.race([Promise.all(this.#running), late]);
    clearTimeout(timer);
    for (const { request } of this.#reads) this.#send(encodeError(request.unique, EIO));
  }

  get #takesUp(): boolean {
    return this.isServing && !this.#isDraining;
  }

  async #settle(): Promise<void> {
    for (const timer of this.#rechecks) clearTimeout(timer);
    for (const { abort } of this.#reads) abort.abort();
    await Promise.all(this.#running);
  }

  #take(bytes: Buffer): void {
    const request = decodeRequest(bytes);
    if (request === null || request.kind === 'forget') return;
    const { unique } = request;
    if (this.#failsOlder && request.kind !== 'interrupt') {
      this.#failsOlder = false;
      void this.#failBefore(unique);
    }
    switch (request.kind) {
      case 'read':
        this.#startRead(request);
        break;
      case 'getattr':
        this.#send(encodeAttributes(unique, this.#export.device.size));
        break;
      case 'open':
        this.#send(encodeOpened(unique));
        break;
      case 'statfs':
        this.#send(encodeStatfs(unique, this.#export.device.size));
        break;
      case 'init': {
        const { major, minor, canResend } = request;
        this.#kernelResends = canResend;
        this.#send(isSpoken(major) ? encodeInit(unique, minor, MAX_BACKGROUND) : encodeOtherMajor(unique));
        break;
      }
      case 'interrupt':
        void this.#interrupt(unique, request.interrupted);
        break;
      case 'release':
      case 'destroy':
        this.#send(encodeDone(unique));
        break;
      default:
        // The kernel takes this for an answer, and does without.
        this.#send(encodeError(unique, ENOSYS));
    }
  }

  #startRead(request: ReadRequest): void {
    const lengthBytes = Math.min(request.lengthBytes, this.#export.device.size - request.offset);
    if (lengthBytes <= 0) {
      this.#send(encodeDone(request.unique));
      return;
    }
    if (this.#readNow(request, lengthBytes)) return;
    this.#inFlightBytes += lengthBytes;
    if (this.#inFlightBytes >= MAX_IN_FLIGHT_BYTES) this.#socket.pause();
    const read = new Read(request);
    this.#reads.add(read);
    const running = this.#read(read, lengthBytes).finally(() => {
      this.#running.delete(running);
      this.#reads.delete(read);
      const wasFull = this.#inFlightBytes >= MAX_IN_FLIGHT_BYTES;
      this.#inFlightBytes -= lengthBytes;
      if (wasFull && this.#inFlightBytes < MAX_IN_FLIGHT_BYTES && this.#takesUp) this.#socket.resume();
    });
    this.#running.add(running);
  }

  /** Without promises and other threads, if the device needs none. */
  #readNow({ unique, offset }: ReadRequest, lengthBytes: number): boolean {
    const { device } = this.#export;
    if (device.readNow === undefined) return false;
    const reply = buffers.take(REPLY_HEADER_BYTES + lengthBytes);
    const isRead = device.readNow(offset, reply.subarray(REPLY_HEADER_BYTES));
    if (isRead) {
      writeReplyHeader(reply, unique, lengthBytes);
      this.#send(reply);
    }
    buffers.give(reply);
    return isRead;
  }

  async #read({ request, abort }: Read, lengthBytes: number): Promise<void> {
    const { unique, offset } = request;
    const { device, onReadError } = this.#export;
    const reply = buffers.take(REPLY_HEADER_BYTES + lengthBytes);
    try {
      await device.read(offset, reply.subarray(REPLY_HEADER_BYTES), abort.signal);
    } catch (error) {
      if (!this.isServing) return;
      if (!abort.signal.aborted) onReadError?.(error, offset, lengthBytes);
      this.#send(encodeError(unique, abort.signal.aborted ? EINTR : EIO));
      return;
    }
    writeReplyHeader(reply, unique, lengthBytes);
    this.#send(reply);
    buffers.give(reply);
  }

  /**
   * A signal came for a reader. A disk's reader would wait on, unless the signal ends it: one that goes on must not
   * see its stat(2) or page fault fail because a child ended. So a read is given up only for who is being killed;
   * of others the kernel is told to ask again.
   */
  async #interrupt(unique: bigint, interrupted: bigint): Promise<void> {
    const find = () => [...this.#reads].find(({ request }) => request.unique === interrupted);
    const threadId = find()?.request.threadId ?? 0;
    if (threadId !== 0 && (await isBeingKilled(threadId))) {
      find()?.abort.abort();
      return;
    }
    if (find() === undefined || !this.isServing) return;
    const timer = setTimeout(() => {
      this.#rechecks.delete(timer);
      this.#send(encodeError(unique, EAGAIN));
    }, INTERRUPT_RECHECK_MS);
    this.#rechecks.add(timer);
  }

  /**
   * EIO for what the kernel sent before that request to who serves no more. Which ones nobody answered it does not say;
   * of all others it knows nothing any more. Those that wait to be read stay: they have not been sent.
   */
  async #failBefore(unique: bigint): Promise<void> {
    let left = MAX_LOST_REQUESTS;
    for (let lost = unique - UNIQUE_STEP; lost > 0n && left > 0 && this.isServing; lost -= UNIQUE_STEP) {
      if (left-- % LOST_REQUESTS_PER_TURN === 0) await nextTurn();
      this.#send(encodeError(lost, EIO));
    }
  }

  /**
   * Does not block: the kernel takes a reply at once. Once the descriptor is closed its number may be another's. Never
   * throws: it is called from the event loop. Who waits for a reply that the kernel does not take gets EIO.
   */
  #send(reply: Buffer): void {
    const error = this.#write(reply);
    if (error === null) return;
    this.#export.onReadError?.(error, 0, 0);
    this.#write(encodeError(reply.readBigUInt64LE(REPLY_UNIQUE_AT), EIO));
  }

  /** What is wrong with the reply, or the kernel. */
  #write(reply: Buffer): unknown {
    if (!this.isServing) return null;
    try {
      writeSync(this.#fd, reply);
      return null;
    } catch (error) {
      return isSystemError(error, ...GONE) ? null : error;
    }
  }
}

/** Whether a thread has SIGKILL pending, which every fatal signal becomes; or is gone. */
async function isBeingKilled(threadId: number): Promise<boolean> {
  const status = await readFile(`/proc/${threadId}/status`, 'latin1').catch(() => null);
  const pending = status?.match(/^SigPnd:\s*([0-9a-f]+)$/m)?.[1];
  return pending === undefined || (BigInt(`0x${pending}`) & SIGKILL_BIT) !== 0n;
}

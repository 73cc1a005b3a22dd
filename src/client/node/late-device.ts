import { setTimeout as sleep } from 'node:timers/promises';
import { SourceError } from '../../format/byte-source.ts';
import { newReadStats, type ReadStats } from '../chunks/read-stats.ts';
import type { OpenDevice } from '../image/device.ts';
import type { BlockDevice, Extent } from '../nbd/nbd-connection.ts';

const FIRST_RETRY_MS = 250;
const MAX_RETRY_MS = 5_000;

export interface LateDeviceOptions {
  readonly sizeBytes: number;
  /** Opens the image; called until it succeeds or the device is closed. */
  readonly open: (signal: AbortSignal) => Promise<OpenDevice>;
  /** How long a read waits for the image to be opened. */
  readonly readTimeoutMs: number;
  /** Told each time that it cannot be opened. */
  readonly onOpenFailure: (error: unknown) => void;
}

type DeviceUse = Omit<ReadStats, 'requests'> & {
  readonly readsUnderWay: number;
  readonly readErrors: number;
};

/**
 * A device that is mounted already, while its image may still have to be opened: after a restart without any
 * proxy, for layers whose beginnings were not kept. Reads wait for that as they wait for chunks; it is tried again
 * and again, so it recovers by itself.
 */
export class LateDevice implements BlockDevice {
  readonly size: number;
  readonly #readTimeoutMs: number;
  readonly #closing = new AbortController();
  #opened: OpenDevice | null;
  #opening: Promise<void>;
  #failure: unknown = null;
  #readsUnderWay = 0;
  #readErrors = 0;

  private constructor(sizeBytes: number, readTimeoutMs: number, opened: OpenDevice | null) {
    this.size = sizeBytes;
    this.#readTimeoutMs = readTimeoutMs;
    this.#opened = opened;
    this.#opening = Promise.resolve();
  }

  /** Of an image that has been opened. */
  static of(opened: OpenDevice, readTimeoutMs: number): LateDevice {
    return new LateDevice(opened.device.size, readTimeoutMs, opened);
  }

  /** Of an image that is opened from now on. */
  static opening(options: LateDeviceOptions): LateDevice {
    const device = new LateDevice(options.sizeBytes, options.readTimeoutMs, null);
    device.#opening = device.#open(options);
    return device;
  }

  /** Null until it is open. */
  get opened(): OpenDevice | null {
    return this.#opened;
  }

  /** What has been read of it. */
  get use(): DeviceUse {
    const { requests: _, ...stats } = this.#opened?.stats ?? newReadStats();
    return { ...stats, readsUnderWay: this.#readsUnderWay, readErrors: this.#readErrors };
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    this.#readsUnderWay++;
    try {
      const opened = this.#opened ?? (await this.#whenOpen(signal));
      await opened.device.read(offset, target, signal);
    } catch (error) {
      if (signal?.aborted !== true) this.#readErrors++;
      throw error;
    } finally {
      this.#readsUnderWay--;
    }
  }

  /** What is there at once counts as read, and neither as under way nor as failed. */
  readNow(offset: number, target: Buffer): boolean {
    return this.#opened?.device.readNow(offset, target) ?? false;
  }

  extents(offset: number, length: number): Iterable<Extent> {
    return this.#opened?.device.extents(offset, length) ?? [{ offset, length, hole: false }];
  }

  async close(): Promise<void> {
    this.#closing.abort(new SourceError('ERR_SOURCE_IO', 'the device was closed'));
    await this.#opening;
    await this.#opened?.close();
  }

  /** Ends when it is open or closed. */
  async #open({ open, onOpenFailure }: LateDeviceOptions): Promise<void> {
    const { signal } = this.#closing;
    for (let delayMs = FIRST_RETRY_MS; !signal.aborted; delayMs = Math.min(2 * delayMs, MAX_RETRY_MS)) {
      try {
        this.#opened = await this.#checked(await open(signal));
        return;
      } catch (error) {
        this.#failure = error;
        if (!signal.aborted) onOpenFailure(error);
      }
      await sleep(delayMs, undefined, { signal }).catch(() => {});
    }
  }

  async #checked(opened: OpenDevice): Promise<OpenDevice> {
    if (opened.device.size === this.size) return opened;
    await opened.close();
    const message = `the image has ${opened.device.size} bytes, and was mounted with ${this.size}`;
    throw new SourceError('ERR_SOURCE_CORRUPT', message);
  }

  async #whenOpen(signal: AbortSignal | undefined): Promise<OpenDevice> {
    const late = new AbortController();
    const ended = AbortSignal.any([
      late.signal,
      this.#closing.signal,
      ...(signal === undefined ? [] : [signal]),
    ]);
    await Promise.race([
      this.#opening,
      sleep(this.#readTimeoutMs, undefined, { signal: ended }).catch(() => {}),
    ]);
    late.abort();
    signal?.throwIfAborted();
    if (this.#opened !== null) return this.#opened;
    this.#closing.signal.throwIfAborted();
    throw new SourceError(
      'ERR_SOURCE_IO',
      `the image cannot be opened: no proxy gave what was missing within ${this.#readTimeoutMs} ms`,
      { cause: this.#failure },
    );
  }
}

/** Links of hosts: what is sent over one waits for what was sent before. */
import type { VirtualTime } from './virtual-time.ts';

/** One direction of a host's link. */
export class Link {
  readonly #msPerByte: number;
  #freeAtMs = 0;
  /** That went over it so far. */
  bytes = 0;

  constructor(bytesPerSecond: number) {
    this.#msPerByte = 1000 / bytesPerSecond;
  }

  durationMs(bytes: number): number {
    return bytes * this.#msPerByte;
  }

  /** @returns when the last of the bytes has passed, of which the first one does not pass before `fromMs` */
  pass(bytes: number, fromMs: number): number {
    this.bytes += bytes;
    this.#freeAtMs = Math.max(this.#freeAtMs, fromMs) + this.durationMs(bytes);
    return this.#freeAtMs;
  }
}

/** Calls `arrived` when the last byte is there. What leaves the sender enters the receiver's link at the same time. */
export function send(
  time: VirtualTime,
  { from, to, latencyMs }: { readonly from: Link; readonly to: Link; readonly latencyMs: number },
  bytes: number,
  arrived: () => void,
): void {
  const sentMs = from.pass(bytes, time.now());
  const beganMs = sentMs - from.durationMs(bytes);
  const receivedMs = to.pass(bytes, beganMs + latencyMs);
  time.after(Math.max(sentMs + latencyMs, receivedMs) - time.now(), arrived);
}

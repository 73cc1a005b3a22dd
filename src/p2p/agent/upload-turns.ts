import type { Clock } from './clock.ts';

export interface UploadLimits {
  readonly bytesPerSecond: number;
  /** Handed out and not given back yet; one piece may always be. */
  readonly maxInFlightBytes: number;
}

/** What may go out at once after a pause. */
const BURST_MS = 50;

/** Of what may be in flight, no child has more than this part: one that takes nothing any more must not hold up all. */
const CHILD_SHARE = 1 / 4;

interface Waiter {
  readonly bytes: number;
  readonly start: () => void;
}

/** Who may send next: each child in turn, all together no faster than the host's upload. */
export class UploadTurns {
  readonly #limits: UploadLimits;
  readonly #clock: Clock;
  /** By child, in the order of their turns; none without waiters. */
  readonly #waiting = new Map<string, Waiter[]>();
  #balanceBytes: number;
  #balancedMs: number;
  #inFlightBytes = 0;
  /** The same by child; none without. */
  readonly #inFlight = new Map<string, number>();
  #isResting = false;

  constructor(limits: UploadLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
    this.#balanceBytes = this.#burstBytes;
    this.#balancedMs = clock.now();
  }

  /**
   * Waits for the child's turn to send so many bytes.
   * @returns to be called when they are out
   * @throws the signal's reason
   */
  async take(child: string, bytes: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = { bytes, start: resolve };
    const queue = this.#waiting.get(child);
    if (queue === undefined) this.#waiting.set(child, [waiter]);
    else queue.push(waiter);
    const onAbort = () => {
      if (this.#forget(child, waiter)) reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    this.#pump();
    await promise;
    signal.removeEventListener('abort', onAbort);
    let isBack = false;
    return () => {
      if (isBack) return;
      isBack = true;
      this.#count(child, -bytes);
      this.#pump();
    };
  }

  #pump(): void {
    for (;;) {
      const turn = this.#next();
      if (turn === null || this.#isResting) return;
      const { child, queue, waiter } = turn;
      const isFull = this.#inFlightBytes + waiter.bytes > this.#limits.maxInFlightBytes;
      if (isFull && this.#inFlightBytes > 0) return;
      this.#refill();
      // A piece may be larger than what is saved: it is paid off after.
      if (this.#balanceBytes <= 0) {
        void this.#rest();
        return;
      }
      this.#balanceBytes -= waiter.bytes;
      this.#count(child, waiter.bytes);
      queue.shift();
      this.#waiting.delete(child);
      if (queue.length > 0) this.#waiting.set(child, queue);
      waiter.start();
    }
  }

  /** The first in turn that has not too much in flight. */
  #next(): { readonly child: string; readonly queue: Waiter[]; readonly waiter: Waiter } | null {
    const maxBytes = CHILD_SHARE * this.#limits.maxInFlightBytes;
    for (const [child, queue] of this.#waiting) {
      const waiter = queue[0]!;
      const bytes = this.#inFlight.get(child) ?? 0;
      if (bytes === 0 || bytes + waiter.bytes <= maxBytes) return { child, queue, waiter };
    }
    return null;
  }

  #count(child: string, bytes: number): void {
    this.#inFlightBytes += bytes;
    const ofChild = (this.#inFlight.get(child) ?? 0) + bytes;
    if (ofChild === 0) this.#inFlight.delete(child);
    else this.#inFlight.set(child, ofChild);
  }

  async #rest(): Promise<void> {
    this.#isResting = true;
    await this.#clock.sleep(Math.max(1, (-this.#balanceBytes / this.#limits.bytesPerSecond) * 1000));
    this.#isResting = false;
    this.#pump();
  }

  #refill(): void {
    const nowMs = this.#clock.now();
    const earned = ((nowMs - this.#balancedMs) / 1000) * this.#limits.bytesPerSecond;
    this.#balanceBytes = Math.min(this.#burstBytes, this.#balanceBytes + earned);
    this.#balancedMs = nowMs;
  }

  get #burstBytes(): number {
    return (this.#limits.bytesPerSecond * BURST_MS) / 1000;
  }

  /** Whether it was still waiting. */
  #forget(child: string, waiter: Waiter): boolean {
    const queue = this.#waiting.get(child);
    const at = queue?.indexOf(waiter) ?? -1;
    if (queue === undefined || at === -1) return false;
    queue.splice(at, 1);
    if (queue.length === 0) this.#waiting.delete(child);
    this.#pump();
    return true;
  }
}

/** Buffers shorter than this are cheaper to make than to keep. */
const MIN_POOLED_BYTES = 32 * 1024;
/** Capacities are multiples of this plus room for a reply's header, so that equal requests share buffers. */
const STEP_BYTES = 64 * 1024;
const HEADER_ROOM_BYTES = 64;

/**
 * Large buffers for reuse: a new one costs the page faults of all its memory, about a third of the time of a
 * 256 KiB reply. Give back only what nobody reads or writes any more; what is not given back is just garbage.
 */
export class BufferPool {
  readonly #maxIdleBytes: number;
  readonly #idle = new Map<number, ArrayBuffer[]>();
  #idleBytes = 0;

  constructor(maxIdleBytes: number) {
    this.#maxIdleBytes = maxIdleBytes;
  }

  /** A buffer of that length with whatever it held before. */
  take(lengthBytes: number): Buffer<ArrayBuffer> {
    if (lengthBytes < MIN_POOLED_BYTES) return Buffer.allocUnsafe(lengthBytes);
    const steps = Math.ceil(Math.max(0, lengthBytes - HEADER_ROOM_BYTES) / STEP_BYTES);
    const capacity = steps * STEP_BYTES + HEADER_ROOM_BYTES;
    const idle = this.#idle.get(capacity)?.pop();
    if (idle === undefined) return Buffer.allocUnsafeSlow(capacity).subarray(0, lengthBytes);
    this.#idleBytes -= capacity;
    return Buffer.from(idle, 0, lengthBytes);
  }

  give(buffer: Buffer<ArrayBuffer>): void {
    const capacity = buffer.buffer.byteLength;
    if (buffer.length < MIN_POOLED_BYTES || this.#idleBytes + capacity > this.#maxIdleBytes) return;
    const list = this.#idle.get(capacity);
    if (list === undefined) this.#idle.set(capacity, [buffer.buffer]);
    else list.push(buffer.buffer);
    this.#idleBytes += capacity;
  }
}

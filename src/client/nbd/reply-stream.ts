import type { Socket } from 'node:net';
import { BufferPool } from './buffer-pool.ts';

/** Small replies are put together up to this: a system call costs more than the copy of a few KiB. */
const BATCH_BYTES = 128 * 1024;
/** Reply buffers that are kept for the next replies. */
const MAX_IDLE_BYTES = 16 * 1024 * 1024;

/** Replies on their way into a client's socket. What is in the batch goes out with the next `flush` or `send`. */
export class ReplyStream {
  readonly #socket: Socket;
  readonly #buffers = new BufferPool(MAX_IDLE_BYTES);
  #batch: Buffer<ArrayBuffer> | null = null;
  #batchedBytes = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Bytes that the kernel has not taken yet: what a slow client holds up. */
  get waitingBytes(): number {
    return this.#socket.writableLength;
  }

  /** Where the next reply may be written, to become one by `commit`; null if it is too long for a batch. */
  reserve(lengthBytes: number): Buffer | null {
    if (lengthBytes > BATCH_BYTES) return null;
    if (this.#batchedBytes + lengthBytes > BATCH_BYTES) this.flush();
    this.#batch ??= this.#buffers.take(BATCH_BYTES);
    return this.#batch.subarray(this.#batchedBytes, this.#batchedBytes + lengthBytes);
  }

  commit(lengthBytes: number): void {
    this.#batchedBytes += lengthBytes;
  }

  /** Puts a reply of some bytes into the batch. */
  add(reply: Buffer): void {
    this.reserve(reply.length)?.set(reply);
    this.commit(reply.length);
  }

  flush(): void {
    const batch = this.#batch;
    if (batch === null || this.#batchedBytes === 0) return;
    this.#batch = null;
    this.#socket.write(batch.subarray(0, this.#batchedBytes), () => this.#buffers.give(batch));
    this.#batchedBytes = 0;
  }

  /** A buffer for one long reply, with whatever it held before; to be given to `send`, or forgotten. */
  take(lengthBytes: number): Buffer<ArrayBuffer> {
    return this.#buffers.take(lengthBytes);
  }

  /** Writes the parts of a reply that lie in a buffer from `take`. Resolves when the kernel has them, or the client is gone. */
  send(parts: readonly Buffer[], owner: Buffer<ArrayBuffer>): Promise<void> {
    this.flush();
    return new Promise((resolve) => {
      this.#socket.cork();
      for (let i = 0; i < parts.length - 1; i++) this.#socket.write(parts[i]!);
      this.#socket.write(parts.at(-1)!, () => {
        this.#buffers.give(owner);
        resolve();
      });
      this.#socket.uncork();
    });
  }
}

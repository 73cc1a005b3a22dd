import { closeSync, openSync } from 'node:fs';
import type { Sink } from '../format/sink.ts';
import { writeFully } from './file-io.ts';

const BUFFER_BYTES = 1 << 20;

/** Appends to a new file in large writes, synchronously: for worker threads only. */
export class FileSink implements Sink {
  readonly #fd: number;
  readonly #buffer = Buffer.allocUnsafe(BUFFER_BYTES);
  #buffered = 0;
  #written = 0;

  constructor(path: string) {
    this.#fd = openSync(path, 'wx', 0o644);
  }

  get sizeBytes(): number {
    return this.#written + this.#buffered;
  }

  write(bytes: Buffer): void {
    if (this.#buffered + bytes.length > BUFFER_BYTES) this.flush();
    if (bytes.length >= BUFFER_BYTES) {
      writeFully(this.#fd, bytes, this.#written);
      this.#written += bytes.length;
      return;
    }
    bytes.copy(this.#buffer, this.#buffered);
    this.#buffered += bytes.length;
  }

  flush(): void {
    writeFully(this.#fd, this.#buffer.subarray(0, this.#buffered), this.#written);
    this.#written += this.#buffered;
    this.#buffered = 0;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

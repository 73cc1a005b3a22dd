import type { Sink } from '../../src/format/sink.ts';

/** Keeps a copy of all that is written to it. */
export class MemorySink implements Sink {
  readonly #pieces: Buffer[] = [];

  write(bytes: Buffer): void {
    this.#pieces.push(Buffer.from(bytes));
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#pieces);
  }
}

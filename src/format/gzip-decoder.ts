import { FormatError } from './errors.ts';
import { createInflater, type Inflater } from './inflate.ts';
import type { StreamDecoder } from './stream-decoder.ts';

const OUTPUT_BYTES = 256 * 1024;

/**
 * Decompresses gzip (RFC 1952), also in several members one after the other, as pigz, bgzip and estargz write them.
 * What stands behind the last member must be another one: Go's reader, which container runtimes use, refuses
 * anything else.
 */
export class GzipDecoder implements StreamDecoder {
  readonly format = 'gzip';
  readonly #inflater: Inflater;
  readonly #output = Buffer.alloc(OUTPUT_BYTES);
  /** Whether some of a member was read, but not all. */
  #isInside = true;

  constructor(inflater = createInflater()) {
    this.#inflater = inflater;
  }

  write(input: Buffer, output: (bytes: Buffer) => void): void {
    let at = 0;
    let isFilled = false;
    while (at < input.length || isFilled) {
      if (!this.#isInside) this.#inflater.reset();
      const { consumed, produced, ended } = this.#inflater.run(input, at, this.#output);
      at += consumed;
      this.#isInside = !ended;
      isFilled = !ended && produced === this.#output.length;
      if (produced > 0) output(this.#output.subarray(0, produced));
    }
  }

  finish(): void {
    if (this.#isInside) throw new FormatError('ERR_STREAM_CORRUPT', 'the gzip stream ends in the middle');
  }

  close(): void {
    this.#inflater.close();
  }
}

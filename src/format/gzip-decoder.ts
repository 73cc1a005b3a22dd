import { FormatError } from './errors.ts';
import { createInflater, type Inflater, zlibInflater } from './inflate.ts';
import { ownSpace, type StreamDecoder } from './stream-decoder.ts';

/** RFC 1952, 2.3. */
const FLAGS_OFFSET = 3;
const HEADER_CHECKSUM_FLAG = 2;
const NOTHING = Buffer.alloc(0);

/**
 * Decompresses gzip (RFC 1952), also in several members one after the other, as pigz, bgzip and estargz write them.
 * What stands behind the last member must be another one: Go's reader, which container runtimes use, refuses
 * anything else.
 */
export class GzipDecoder implements StreamDecoder {
  readonly format = 'gzip';
  readonly #usual: Inflater;
  /** Made when it is needed. */
  #zlib: Inflater | null = null;
  #inflater: Inflater;
  readonly #space: () => Buffer;
  /** The beginning of a member, up to where its flags are. */
  #held: Buffer = NOTHING;
  #isAtStart = true;
  /** Whether the last member was read to its end. */
  #isComplete = false;

  /** @param space where to put decompressed bytes; asked for anew after each piece that was handed on */
  constructor(space = ownSpace(), inflater = createInflater()) {
    this.#space = space;
    this.#usual = inflater;
    this.#inflater = inflater;
  }

  write(input: Buffer, output: (bytes: Buffer) => void): void {
    const bytes = this.#held.length === 0 ? input : Buffer.concat([this.#held, input]);
    this.#held = NOTHING;
    let at = 0;
    let isFilled = false;
    while (at < bytes.length || isFilled) {
      if (this.#isAtStart) {
        this.#isComplete = false;
        const flags = bytes[at + FLAGS_OFFSET];
        if (flags === undefined) {
          this.#held = Buffer.from(bytes.subarray(at));
          return;
        }
        this.#begin(flags);
      }
      const target = this.#space();
      const { consumed, produced, ended } = this.#inflater.run(bytes, at, target);
      at += consumed;
      this.#isAtStart = ended;
      this.#isComplete = ended;
      isFilled = !ended && produced === target.length;
      if (produced > 0) output(target.subarray(0, produced));
    }
  }

  finish(): void {
    if (!this.#isComplete) throw new FormatError('ERR_STREAM_CORRUPT', 'the gzip stream ends in the middle');
  }

  close(): void {
    this.#usual.close();
    this.#zlib?.close();
  }

  /** ISA-L (2.30) forgets the checksum of a header that comes in two pieces, and then refuses the member. */
  #begin(flags: number): void {
    const hasHeaderChecksum = (flags & HEADER_CHECKSUM_FLAG) !== 0;
    if (hasHeaderChecksum && this.#usual.library === 'isa-l') this.#zlib ??= zlibInflater();
    this.#inflater = (hasHeaderChecksum ? this.#zlib : null) ?? this.#usual;
    this.#inflater.reset();
  }
}

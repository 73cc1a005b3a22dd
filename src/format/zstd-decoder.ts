import { FormatError } from './errors.ts';
import { addressOf, loadBundledLibrary } from './native.ts';
import { ownSpace, type StreamDecoder } from './stream-decoder.ts';

/** The widest window that zstd's own command line accepts without a flag: 128 MiB. */
const MAX_WINDOW_LOG = 27;
/** ZSTD_d_windowLogMax */
const WINDOW_LOG_MAX = 100;

/** Offsets in ZSTD_inBuffer and ZSTD_outBuffer of zstd.h on 64-bit machines. */
const BUFFER = { address: 0, size: 8, position: 16, bytes: 24 } as const;

/** Decompresses zstd (RFC 8878), also in several frames, with skippable ones between them, as zstd:chunked has them. */
export class ZstdDecoder implements StreamDecoder {
  readonly format = 'zstd';
  readonly #library: Zstd;
  readonly #context: unknown;
  readonly #space: () => Buffer;
  readonly #outBuffer = Buffer.alloc(BUFFER.bytes);
  readonly #inBuffer = Buffer.alloc(BUFFER.bytes);
  #isInside = true;

  /** @param space where to put decompressed bytes; asked for anew after each piece that was handed on */
  constructor(space = ownSpace()) {
    this.#space = space;
    zstd ??= loadZstd();
    this.#library = zstd;
    this.#context = this.#library.create();
    this.#check(this.#library.setParameter(this.#context, WINDOW_LOG_MAX, MAX_WINDOW_LOG));
  }

  write(input: Buffer, output: (bytes: Buffer) => void): void {
    this.#inBuffer.writeBigUInt64LE(addressOf(input), BUFFER.address);
    this.#inBuffer.writeBigUInt64LE(BigInt(input.length), BUFFER.size);
    this.#inBuffer.writeBigUInt64LE(0n, BUFFER.position);
    let isFilled = false;
    while (this.#inBuffer.readUInt32LE(BUFFER.position) < input.length || isFilled) {
      const target = this.#space();
      this.#outBuffer.writeBigUInt64LE(addressOf(target), BUFFER.address);
      this.#outBuffer.writeBigUInt64LE(BigInt(target.length), BUFFER.size);
      this.#outBuffer.writeBigUInt64LE(0n, BUFFER.position);
      const result = this.#check(this.#library.decompress(this.#context, this.#outBuffer, this.#inBuffer));
      const produced = this.#outBuffer.readUInt32LE(BUFFER.position);
      this.#isInside = result !== 0;
      isFilled = this.#isInside && produced === target.length;
      if (produced > 0) output(target.subarray(0, produced));
    }
  }

  finish(): void {
    if (this.#isInside) throw new FormatError('ERR_STREAM_CORRUPT', 'the zstd stream ends in the middle');
  }

  close(): void {
    this.#library.free(this.#context);
  }

  #check(result: number): number {
    if (result >= 0) return result;
    throw new FormatError(
      'ERR_STREAM_CORRUPT',
      `the zstd stream is broken: ${this.#library.errorName(result)}`,
    );
  }
}

/** Sizes are declared signed: an error is a small negative number. */
interface Zstd {
  create(): unknown;
  free(context: unknown): void;
  setParameter(context: unknown, parameter: number, value: number): number;
  decompress(context: unknown, output: Buffer, input: Buffer): number;
  errorName(result: number): string;
}

let zstd: Zstd | undefined;

function loadZstd(): Zstd {
  const library = loadBundledLibrary('ZSTD_decompressStream', 'libzstd.so.1', 'libzstd1');
  return {
    create: library.func('void *ZSTD_createDCtx()'),
    free: library.func('void ZSTD_freeDCtx(void *context)'),
    setParameter: library.func('int64_t ZSTD_DCtx_setParameter(void *context, int parameter, int value)'),
    decompress: library.func('int64_t ZSTD_decompressStream(void *context, void *output, void *input)'),
    errorName: library.func('const char *ZSTD_getErrorName(int64_t result)'),
  };
}

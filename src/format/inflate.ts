import { FormatError } from './errors.ts';
import { addressOf, loadBundledLibrary, loadLibrary, NativeLibraryError } from './native.ts';

/** Decompresses one gzip member at a time (RFC 1952), with its header and checksum. */
export interface Inflater {
  /** The library behind it. */
  readonly library: 'isa-l' | 'zlib';
  /** Makes ready for another member. */
  reset(): void;
  /**
   * Decompresses from `input` at `from` into all of `output`. `consumed` may be negative where an earlier call had
   * read ahead. Throws FormatError ERR_STREAM_CORRUPT.
   */
  run(
    input: Buffer,
    from: number,
    output: Buffer,
  ): {
    readonly consumed: number;
    readonly produced: number;
    /** The member is complete. While it is not, either all input is consumed or all output is filled. */
    readonly ended: boolean;
  };
  close(): void;
}

/** ISA-L is more than twice as fast as zlib; zlib is everywhere. */
export function createInflater(): Inflater {
  isal ??= tryIsal();
  return isal === 'missing' ? zlibInflater() : isal();
}

let isal: (() => Inflater) | 'missing' | undefined;

function tryIsal(): (() => Inflater) | 'missing' {
  try {
    return loadIsal();
  } catch (error) {
    if (error instanceof NativeLibraryError) return 'missing';
    throw error;
  }
}

/** Offsets in `struct inflate_state` of ISA-L's igzip_lib.h, the same since 2.20 on 64-bit machines. */
const ISAL = {
  nextOut: 0,
  availableOut: 8,
  nextIn: 16,
  availableIn: 32,
  /** Bits that were read ahead of what is decoded. */
  readInLength: 36,
  blockState: 21_160,
  checksumFlag: 21_172,
  /** The structure has 87,368 bytes; some more in case a later version adds to its end. */
  stateBytes: 128 * 1024,
} as const;
const ISAL_BLOCK_FINISH = 5;
const ISAL_GZIP = 1;
const ISAL_ERRORS: Readonly<Record<number, string>> = {
  [-1]: 'an invalid block',
  [-2]: 'an invalid symbol',
  [-3]: 'a reference to before its start',
  [-4]: 'no gzip header where one must be',
  [-5]: 'a compression method other than deflate',
  [-6]: 'a checksum that does not match',
};

/** A member that holds "ISA-L", to see whether the structure is laid out as is thought here. */
const PROBE = Buffer.from('H4sIAAAAAAAAA/MMdtT1AQDK3WFkBQAAAA==', 'base64');
const PROBE_CONTENT = 'ISA-L';

/** @throws NativeLibraryError if it is not there, or not the one that is known here */
export function loadIsal(): () => Inflater {
  const library = loadLibrary('libisal.so.2', 'libisal2');
  const init: (state: Buffer) => void = library.func('void isal_inflate_init(void *state)');
  const reset: (state: Buffer) => void = library.func('void isal_inflate_reset(void *state)');
  const inflate: (state: Buffer) => number = library.func('int isal_inflate(void *state)');

  function create(): Inflater {
    const state = Buffer.alloc(ISAL.stateBytes);
    init(state);
    state.writeUInt32LE(ISAL_GZIP, ISAL.checksumFlag);
    return {
      library: 'isa-l',
      reset() {
        reset(state);
        state.writeUInt32LE(ISAL_GZIP, ISAL.checksumFlag);
      },
      run(input, from, output) {
        state.writeBigUInt64LE(addressOf(output), ISAL.nextOut);
        state.writeUInt32LE(output.length, ISAL.availableOut);
        state.writeBigUInt64LE(addressOf(input) + BigInt(from), ISAL.nextIn);
        state.writeUInt32LE(input.length - from, ISAL.availableIn);
        const result = inflate(state);
        if (result < 0) throw corrupt(ISAL_ERRORS[result] ?? `error ${result}`);
        const ended = state.readUInt32LE(ISAL.blockState) === ISAL_BLOCK_FINISH;
        const readAheadBytes = ended ? Math.floor(state.readInt32LE(ISAL.readInLength) / 8) : 0;
        return {
          consumed: input.length - from - state.readUInt32LE(ISAL.availableIn) - readAheadBytes,
          produced: output.length - state.readUInt32LE(ISAL.availableOut),
          ended,
        };
      },
      // Its state is a buffer like others.
      close() {},
    };
  }

  if (!readsProbe(create())) {
    throw new NativeLibraryError('libisal.so.2 is of a version that is not known here');
  }
  return create;
}

function readsProbe(inflater: Inflater): boolean {
  const output = Buffer.alloc(PROBE_CONTENT.length + 1);
  try {
    const { consumed, produced, ended } = inflater.run(PROBE, 0, output);
    return ended && consumed === PROBE.length && output.toString('latin1', 0, produced) === PROBE_CONTENT;
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}

/** Offsets in `z_stream` of zlib.h on 64-bit machines. */
const Z_STREAM = {
  nextIn: 0,
  availableIn: 8,
  nextOut: 24,
  availableOut: 32,
  message: 48,
  bytes: 112,
} as const;
const Z_OK = 0;
const Z_STREAM_END = 1;
const Z_BUF_ERROR = -5;
/** A window of 32 KiB, and gzip's header and trailer. */
const GZIP_WINDOW_BITS = 15 + 16;

/** @throws NativeLibraryError */
export function zlibInflater(): Inflater {
  zlib ??= loadZlib();
  const { init, reset, inflate, end } = zlib;
  const stream = Buffer.alloc(Z_STREAM.bytes);
  const result = init(stream, GZIP_WINDOW_BITS, '1', Z_STREAM.bytes);
  if (result !== Z_OK) throw new NativeLibraryError(`zlib cannot be used: inflateInit2 answers ${result}`);
  return {
    library: 'zlib',
    reset() {
      reset(stream);
    },
    run(input, from, output) {
      stream.writeBigUInt64LE(addressOf(output), Z_STREAM.nextOut);
      stream.writeUInt32LE(output.length, Z_STREAM.availableOut);
      stream.writeBigUInt64LE(addressOf(input) + BigInt(from), Z_STREAM.nextIn);
      stream.writeUInt32LE(input.length - from, Z_STREAM.availableIn);
      const code = inflate(stream, 0);
      if (code < 0 && code !== Z_BUF_ERROR) throw corrupt(`what zlib calls error ${code}`);
      if (code > Z_STREAM_END) throw corrupt('a preset dictionary');
      return {
        consumed: input.length - from - stream.readUInt32LE(Z_STREAM.availableIn),
        produced: output.length - stream.readUInt32LE(Z_STREAM.availableOut),
        ended: code === Z_STREAM_END,
      };
    },
    close() {
      end(stream);
    },
  };
}

interface Zlib {
  init(stream: Buffer, windowBits: number, version: string, streamBytes: number): number;
  reset(stream: Buffer): number;
  inflate(stream: Buffer, flush: number): number;
  end(stream: Buffer): number;
}

let zlib: Zlib | undefined;

function loadZlib(): Zlib {
  const library = loadBundledLibrary('inflateInit2_', 'libz.so.1', 'zlib1g');
  return {
    init: library.func(
      'int inflateInit2_(void *stream, int windowBits, const char *version, int streamBytes)',
    ),
    reset: library.func('int inflateReset(void *stream)'),
    inflate: library.func('int inflate(void *stream, int flush)'),
    end: library.func('int inflateEnd(void *stream)'),
  };
}

function corrupt(what: string): FormatError {
  return new FormatError('ERR_STREAM_CORRUPT', `the gzip stream holds ${what}`);
}

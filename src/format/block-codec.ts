import process from 'node:process';
import { FormatError } from './errors.ts';
import { loadBundledLibrary, loadLibrary } from './native.ts';

/** How the blocks of a ZFile are compressed. */
export type Algorithm = 'lz4' | 'zstd';

/** Compresses blocks independently of each other. Not to be shared between threads. */
export interface BlockCodec {
  readonly algorithm: Algorithm;
  /** Of the library: another one may compress the same bytes to others. */
  readonly version: string;
  /** The most bytes that `length` bytes can become. */
  bound(length: number): number;
  /** Returns how many bytes of `target` it filled; `target` must hold `bound(source.length)`. */
  compress(source: Buffer, target: Buffer): number;
  /**
   * Returns how many bytes of `target` it filled; what lies behind them in `target` is undefined.
   * @throws FormatError ERR_ZFILE_CORRUPT if `source` is not such a block, or expands beyond `target`
   */
  decompress(source: Buffer, target: Buffer): number;
}

/** The level that the stock tools use. */
const DEFAULT_ZSTD_LEVEL = 3;

/** `level` is zstd's own scale; LZ4 blocks have one level only and it is ignored. */
export function blockCodec(algorithm: Algorithm, level = DEFAULT_ZSTD_LEVEL): BlockCodec {
  switch (algorithm) {
    case 'lz4':
      lz4 ??= loadLz4();
      return lz4;
    case 'zstd':
      zstd ??= loadZstd();
      return zstdCodec(zstd, level);
  }
}

let lz4: BlockCodec | undefined;
let zstd: Zstd | undefined;

function loadLz4(): BlockCodec {
  const library = loadLibrary('liblz4.so.1', 'liblz4-1');
  const bound: (length: number) => number = library.func('int LZ4_compressBound(int length)');
  const compressFast: (s: Buffer, t: Buffer, sLength: number, tLength: number, speed: number) => number =
    library.func('int LZ4_compress_fast(const void *s, void *t, int sLength, int tLength, int speed)');
  const decompressSafe: (s: Buffer, t: Buffer, sLength: number, tLength: number) => number = library.func(
    'int LZ4_decompress_safe(const void *s, void *t, int sLength, int tLength)',
  );
  const version: () => string = library.func('const char *LZ4_versionString()');
  return {
    algorithm: 'lz4',
    version: version(),
    bound,
    compress(source, target) {
      const length = compressFast(source, target, source.length, target.length, 1);
      if (length <= 0) throw new RangeError(`LZ4: ${target.length} bytes are too few for a block`);
      return length;
    },
    decompress(source, target) {
      const length = decompressSafe(source, target, source.length, target.length);
      if (length < 0) throw new FormatError('ERR_ZFILE_CORRUPT', `not an LZ4 block (${length})`);
      return length;
    },
  };
}

/** Sizes are declared signed: an error is a small negative number, which is cheaper to see than a bigint. */
interface Zstd {
  readonly version: string;
  bound(length: number): number;
  compress(s: Buffer, t: Buffer, level: number): number;
  decompress(s: Buffer, t: Buffer): number;
  errorName(result: number): string;
}

function loadZstd(): Zstd {
  const library = loadBundledLibrary('ZSTD_compressCCtx', 'libzstd.so.1', 'libzstd1');
  const createCompressor: () => unknown = library.func('void *ZSTD_createCCtx()');
  const createDecompressor: () => unknown = library.func('void *ZSTD_createDCtx()');
  const compress: (
    c: unknown,
    t: Buffer,
    tLength: number,
    s: Buffer,
    sLength: number,
    level: number,
  ) => number = library.func(
    'int64_t ZSTD_compressCCtx(void *c, void *t, size_t tLength, const void *s, size_t sLength, int level)',
  );
  const decompress: (d: unknown, t: Buffer, tLength: number, s: Buffer, sLength: number) => number =
    library.func(
      'int64_t ZSTD_decompressDCtx(void *d, void *t, size_t tLength, const void *s, size_t sLength)',
    );
  const freeCompressor: (c: unknown) => void = library.func('void ZSTD_freeCCtx(void *c)');
  const freeDecompressor: (d: unknown) => void = library.func('void ZSTD_freeDCtx(void *d)');
  // One context of each kind a thread, for as long as the thread lives: nobody else would free their memory.
  const compressor = createCompressor();
  const decompressor = createDecompressor();
  process.once('exit', () => {
    freeCompressor(compressor);
    freeDecompressor(decompressor);
  });
  const version: () => string = library.func('const char *ZSTD_versionString()');
  return {
    version: version(),
    bound: library.func('int64_t ZSTD_compressBound(size_t length)'),
    errorName: library.func('const char *ZSTD_getErrorName(int64_t result)'),
    compress: (s, t, level) => compress(compressor, t, t.length, s, s.length, level),
    decompress: (s, t) => decompress(decompressor, t, t.length, s, s.length),
  };
}

function zstdCodec(library: Zstd, level: number): BlockCodec {
  return {
    algorithm: 'zstd',
    version: library.version,
    bound: library.bound,
    compress(source, target) {
      const length = library.compress(source, target, level);
      if (length < 0) throw new RangeError(`zstd: ${library.errorName(length)}`);
      return length;
    },
    decompress(source, target) {
      const length = library.decompress(source, target);
      if (length < 0) {
        throw new FormatError('ERR_ZFILE_CORRUPT', `not a zstd frame: ${library.errorName(length)}`);
      }
      return length;
    },
  };
}

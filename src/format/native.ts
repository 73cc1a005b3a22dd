import { errno, type LibraryHandle, load } from 'koffi';

/** A system library that is not installed, or not usable. */
export class NativeLibraryError extends Error {
  override readonly name = 'NativeLibraryError';
  readonly code = 'ERR_NATIVE_LIBRARY';
}

/**
 * Loads a shared library of the system. Its own symbols come first for it ("deep" binding): Node.js has zlib and zstd
 * of other versions in itself, and a library whose calls to itself end up there corrupts memory.
 *
 * @param soname as the linker knows it, e.g. `liblz4.so.1`
 * @param debianPackage what to install where it is missing
 * @throws NativeLibraryError
 */
export function loadLibrary(soname: string, debianPackage: string): LibraryHandle {
  try {
    return load(soname, { deep: true });
  } catch (cause) {
    throw new NativeLibraryError(
      `cannot load ${soname}: install it, on Debian and Ubuntu with "apt-get install ${debianPackage}"`,
      { cause },
    );
  }
}

/**
 * A library that Node.js may have in itself, and as official builds do, let others call; else the system's. Node's is
 * newer, and built for speed: its zstd compresses 1.4 times as fast as Debian 12's.
 *
 * @param symbol one of the library's functions, to see whether it is there
 * @throws NativeLibraryError
 */
export function loadBundledLibrary(symbol: string, soname: string, debianPackage: string): LibraryHandle {
  const own = load(null);
  try {
    own.func(`void ${symbol}()`);
    return own;
  } catch {
    return loadLibrary(soname, debianPackage);
  }
}

/**
 * Where a buffer's bytes stand in memory, for structures of native libraries that hold pointers. Good for as long as
 * the buffer is referenced; it does not move.
 */
export function addressOf(buffer: Buffer): bigint {
  memmove ??= loadLibrary('libc.so.6', 'libc6').func(
    'uint64_t memmove(void *target, const void *source, size_t length)',
  );
  return BigInt(memmove(buffer, buffer, 0));
}

let memmove: ((target: Buffer, source: Buffer, length: number) => number | bigint) | undefined;

/** The system's error number after a native call that says it failed; to be read before the next one. */
export function lastErrno(): number {
  return errno();
}

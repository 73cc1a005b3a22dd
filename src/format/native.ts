import { errno, type LibraryHandle, load } from 'koffi';

/** A system library that is not installed, or not usable. */
export class NativeLibraryError extends Error {
  override readonly name = 'NativeLibraryError';
  readonly code = 'ERR_NATIVE_LIBRARY';
}

/**
 * Loads a shared library of the system.
 *
 * @param soname as the linker knows it, e.g. `liblz4.so.1`
 * @param debianPackage what to install where it is missing
 * @throws NativeLibraryError
 */
export function loadLibrary(soname: string, debianPackage: string): LibraryHandle {
  try {
    return load(soname);
  } catch (cause) {
    throw new NativeLibraryError(
      `cannot load ${soname}: install it, on Debian and Ubuntu with "apt-get install ${debianPackage}"`,
      { cause },
    );
  }
}

/** The system's error number after a native call that says it failed; to be read before the next one. */
export function lastErrno(): number {
  return errno();
}

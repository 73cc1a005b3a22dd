import { loadBundledLibrary } from './native.ts';

/** Hash functions of digests (OCI image-spec, descriptor.md, "Registered Algorithms"). */
export type HashAlgorithm = 'sha256' | 'sha512';

const MAX_DIGEST_BYTES = 64;
const DIGEST_BYTES: Readonly<Record<HashAlgorithm, number>> = { sha256: 32, sha512: 64 };

/**
 * A hash whose state is native memory, so that threads can take turns with it: others make their own object of the
 * address. Never two at once, and never after `free`.
 */
export class DigestState {
  /** What other threads need; below 2^53. */
  readonly address: number;
  readonly #library: Openssl;

  private constructor(address: number, library: Openssl) {
    this.address = address;
    this.#library = library;
  }

  /** A new hash. The caller frees it. */
  static create(algorithm: HashAlgorithm): DigestState {
    openssl ??= loadOpenssl();
    const address = openssl.create();
    if (address === 0) throw new RangeError('no memory for a hash');
    const state = new DigestState(address, openssl);
    const type = algorithm === 'sha256' ? openssl.sha256() : openssl.sha512();
    state.#check(openssl.init(address, type, 0));
    return state;
  }

  /** One that another thread has created. */
  static at(address: number): DigestState {
    openssl ??= loadOpenssl();
    return new DigestState(address, openssl);
  }

  update(bytes: Buffer): void {
    this.#check(this.#library.update(this.address, bytes, bytes.length));
  }

  /** The digest, in hexadecimal. Nothing can be added then. */
  finish(algorithm: HashAlgorithm): string {
    const digest = Buffer.alloc(MAX_DIGEST_BYTES);
    this.#check(this.#library.final(this.address, digest, null));
    return digest.toString('hex', 0, DIGEST_BYTES[algorithm]);
  }

  free(): void {
    this.#library.free(this.address);
  }

  #check(result: number): void {
    if (result !== 1) throw new Error('OpenSSL could not compute a hash');
  }
}

interface Openssl {
  create(): number;
  sha256(): number;
  sha512(): number;
  init(context: number, type: number, engine: number): number;
  update(context: number, bytes: Buffer, length: number): number;
  final(context: number, digest: Buffer, length: null): number;
  free(context: number): void;
}

let openssl: Openssl | undefined;

/** Node.js cannot do without OpenSSL, so it is there: in Node.js itself, or beside it. */
function loadOpenssl(): Openssl {
  const library = loadBundledLibrary('EVP_DigestUpdate', 'libcrypto.so.3', 'libssl3');
  return {
    create: library.func('uintptr_t EVP_MD_CTX_new()'),
    sha256: library.func('uintptr_t EVP_sha256()'),
    sha512: library.func('uintptr_t EVP_sha512()'),
    init: library.func('int EVP_DigestInit_ex(uintptr_t context, uintptr_t type, uintptr_t engine)'),
    update: library.func('int EVP_DigestUpdate(uintptr_t context, const void *bytes, size_t length)'),
    final: library.func('int EVP_DigestFinal_ex(uintptr_t context, void *digest, void *length)'),
    free: library.func('void EVP_MD_CTX_free(uintptr_t context)'),
  };
}

import { createHash, type Hash } from 'node:crypto';
import { OciError } from './errors.ts';

declare const digestBrand: unique symbol;

/** `sha256:<64 hex digits>` or `sha512:<128>`, lower case: only {@link parseDigest} and hashing make one. */
export type Digest = string & { readonly [digestBrand]: true };

export type DigestAlgorithm = 'sha256' | 'sha512';

const DIGEST_PATTERN = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/** Whether a string is a digest of an algorithm registered by the OCI image-spec (descriptor.md). */
export function isDigest(text: string): text is Digest {
  return DIGEST_PATTERN.test(text);
}

/** @throws OciError ERR_DIGEST_INVALID */
export function parseDigest(text: string): Digest {
  if (!isDigest(text)) {
    throw new OciError(
      'ERR_DIGEST_INVALID',
      `not a digest: ${JSON.stringify(text.slice(0, 160))} (expected sha256: or sha512: and lower-case hex digits)`,
    );
  }
  return text;
}

export function digestAlgorithm(digest: Digest): DigestAlgorithm {
  return digest.startsWith('sha256:') ? 'sha256' : 'sha512';
}

/** The hex digits alone, as blob files are named. */
export function digestHex(digest: Digest): string {
  return digest.slice(digest.indexOf(':') + 1);
}

/** The first digits, for people's eyes only. */
export function shortDigest(digest: Digest): string {
  return digestHex(digest).slice(0, 12);
}

export function digestOf(bytes: Uint8Array | string, algorithm: DigestAlgorithm = 'sha256'): Digest {
  return new Digester(algorithm).update(bytes).digest();
}

/** Whether the bytes are those that the digest names. */
export function matchesDigest(bytes: Uint8Array, digest: Digest): boolean {
  return digestOf(bytes, digestAlgorithm(digest)) === digest;
}

/** Computes a digest from bytes that come in pieces. */
export class Digester {
  readonly #algorithm: DigestAlgorithm;
  readonly #hash: Hash;

  constructor(algorithm: DigestAlgorithm = 'sha256') {
    this.#algorithm = algorithm;
    this.#hash = createHash(algorithm);
  }

  update(bytes: Uint8Array | string): this {
    this.#hash.update(bytes);
    return this;
  }

  /** To be called once, after the last bytes. */
  digest(): Digest {
    return `${this.#algorithm}:${this.#hash.digest('hex')}` as Digest;
  }
}

import { type Digest, Digester, digestAlgorithm } from '../../oci/digest.ts';
import { type RegistryContext, RegistryError } from '../../oci/errors.ts';
import type { ResumedBody } from '../../oci/resumed-body.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import type { StreamSource } from '../../oci/serving/stream.ts';
import { HELD_BACK_BYTES } from './held-back.ts';

/** What of a blob was hashed before, and what all of it has to come to. */
export interface Verification {
  readonly digest: Digest;
  readonly digester: Digester;
}

/** To verify a blob from its first byte on. */
export function verificationOf(digest: Digest): Verification {
  return { digest, digester: new Digester(digestAlgorithm(digest)) };
}

/**
 * Bytes of a blob from upstream for one reader, of which nothing is kept: what is verified is so while it streams, the
 * last bytes of an answer held back until the whole blob has come. To be read once, in order.
 */
export class PassedBlob implements StreamSource {
  readonly #body: ResumedBody;
  readonly #batches: AsyncGenerator<readonly Buffer[], void, void>;
  readonly #context: RegistryContext;
  readonly #verification: Verification | null;
  readonly #pending: Buffer[] = [];
  /** Of what was read, and of what has come. */
  #position: number;
  #arrived: number;
  #isOver = false;

  /**
   * @param start where `body` begins
   * @param verification of all before `start`; null if the bytes are handed on as they are
   */
  constructor(body: ResumedBody, start: number, verification: Verification | null, context: RegistryContext) {
    this.#body = body;
    this.#batches = body.batches();
    this.#position = start;
    this.#arrived = start;
    this.#verification = verification;
    this.#context = context;
  }

  /** Of the whole blob. */
  get sizeBytes(): number {
    return this.#body.sizeBytes;
  }

  /** Rejects with RegistryError, also if the bytes are not those of the digest. */
  async readableTo({ start, end }: ByteRange): Promise<number> {
    while (true) {
      const isFree = this.#isOver || this.#verification === null;
      const readable = Math.min(this.#arrived, isFree ? end : end - HELD_BACK_BYTES);
      if (readable > start || (this.#isOver && start === end)) return readable;
      if (this.#isOver) throw this.#error('ERR_REGISTRY_BODY', `the blob ends before ${end}`);
      await this.#pull(end);
    }
  }

  async read(offset: number, target: Buffer): Promise<void> {
    if (offset !== this.#position) throw new Error(`read at ${offset}, but ${this.#position} is next`);
    let done = 0;
    while (done < target.length) {
      const piece = this.#pending[0];
      if (piece === undefined) throw new Error(`read to ${offset + target.length}, which has not come`);
      const taken = piece.copy(target, done);
      done += taken;
      if (taken === piece.length) this.#pending.shift();
      else this.#pending[0] = piece.subarray(taken);
    }
    this.#position += done;
  }

  /** Lets go of the connection. */
  async close(): Promise<void> {
    this.#body.discard();
    await this.#batches.return();
  }

  async #pull(end: number): Promise<void> {
    const { done, value: batch } = await this.#batches.next();
    if (done === true) {
      this.#verify();
      this.#isOver = true;
      return;
    }
    for (const piece of batch) {
      this.#verification?.digester.update(piece);
      const wanted = piece.subarray(0, Math.max(0, end - this.#arrived));
      if (wanted.length > 0) this.#pending.push(wanted);
      this.#arrived += piece.length;
    }
  }

  #verify(): void {
    if (this.#verification === null) return;
    const { digest, digester } = this.#verification;
    const actual = digester.digest();
    if (actual !== digest) {
      throw this.#error('ERR_REGISTRY_DIGEST', `the bytes have the digest ${actual}`);
    }
  }

  #error(code: 'ERR_REGISTRY_BODY' | 'ERR_REGISTRY_DIGEST', message: string): RegistryError {
    return new RegistryError(code, this.#context, message);
  }
}

import { SourceError } from '../../format/byte-source.ts';
import { type Digest, Digester, digestAlgorithm } from '../../oci/digest.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import type { StreamSource } from '../../oci/serving/stream.ts';

/**
 * A whole blob that is read in order, hashed on the way: a chunk table is a proxy's word, and what does not make up
 * the blob is not given out to its end.
 */
export class CheckedStream implements StreamSource {
  readonly #source: StreamSource;
  readonly #digest: Digest;
  readonly #sizeBytes: number;
  readonly #onVerdict: (isRight: boolean) => void;
  readonly #digester: Digester;

  /** @param onVerdict called once all has been read */
  constructor(
    source: StreamSource,
    blob: { readonly digest: Digest; readonly sizeBytes: number },
    onVerdict: (isRight: boolean) => void,
  ) {
    this.#source = source;
    this.#digest = blob.digest;
    this.#sizeBytes = blob.sizeBytes;
    this.#onVerdict = onVerdict;
    this.#digester = new Digester(digestAlgorithm(blob.digest));
  }

  readableTo(range: ByteRange, signal: AbortSignal): Promise<number> {
    return this.#source.readableTo(range, signal);
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    await this.#source.read(offset, target, signal);
    this.#digester.update(target);
    if (offset + target.length < this.#sizeBytes) return;
    const digest = this.#digester.digest();
    this.#onVerdict(digest === this.#digest);
    if (digest === this.#digest) return;
    const message = `what the chunk table of ${this.#digest} describes is ${digest}`;
    throw new SourceError('ERR_SOURCE_CORRUPT', message);
  }
}

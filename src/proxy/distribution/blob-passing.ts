import type { Digest } from '../../oci/digest.ts';
import type { Answer, ServedRequest } from '../../oci/serving/answer.ts';
import { type Asked, streamed, whatIsAsked } from '../../oci/serving/blob-part.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import { PIECE_BYTES, type StreamSource } from '../../oci/serving/stream.ts';
import { isStoreFailure } from '../../store/errors.ts';
import type { Blobs, Passer } from '../content/blobs.ts';
import type { DownloadReader } from '../content/download.ts';
import { HELD_BACK_BYTES } from '../content/held-back.ts';
import { type PassedBlob, verificationOf } from '../content/passed-blob.ts';
import type { Target } from '../upstream/upstreams.ts';
import { warningHeader } from './manifest-answer.ts';

const UNVERIFIED = 'the cache cannot keep this: these bytes are handed on from upstream unverified';

/**
 * GET of a blob that cannot be kept: from upstream to this client alone. A whole blob is verified while it
 * streams; of a part that is impossible, and the answer says so.
 */
export async function answerPassed(
  blobs: Blobs,
  target: Target,
  digest: Digest,
  request: ServedRequest,
): Promise<Answer> {
  const passer = blobs.passer(target, digest, request.signal);
  request.notes.source = 'upstream';
  if (request.headers.range !== undefined) {
    const asked = whatIsAsked(request, digest, await passer.sizeBytes());
    const { start, end } = asked.range;
    if (start > 0 || end < (await passer.sizeBytes())) return answerPart(passer, asked);
  }
  const passed = await passer.begin({ start: 0, verification: verificationOf(digest) });
  try {
    const asked = whatIsAsked(request, digest, passed.sizeBytes);
    const { range } = asked;
    // What is short waits for the verdict: then a failure can still be told as an error.
    if (range.end <= HELD_BACK_BYTES) await passed.readableTo(range);
    return streamed(passed, asked, () => passed.close());
  } catch (error) {
    await passed.close();
    throw error;
  }
}

async function answerPart(passer: Passer, { status, headers, range }: Asked): Promise<Answer> {
  const passed = await passer.begin({ ...range, verification: null });
  const { 'docker-content-digest': _, ...rest } = headers;
  const asked = { status, headers: { ...rest, ...warningHeader(UNVERIFIED) }, range };
  return streamed(passed, asked, () => passed.close());
}

/**
 * Reads along with a download and, should the disk be full, or fail, in the middle of it, goes on with upstream for this reader
 * alone. What it had before counts: the whole blob is verified all the same.
 */
export class SurvivingReader implements StreamSource {
  readonly #reader: DownloadReader;
  readonly #passer: () => Passer;
  readonly #isUnverified: boolean;
  #passed: PassedBlob | null = null;

  /** @param isUnverified whether bytes are given before the blob is verified */
  constructor(reader: DownloadReader, passer: () => Passer, isUnverified: boolean) {
    this.#reader = reader;
    this.#passer = passer;
    this.#isUnverified = isUnverified;
  }

  async readableTo(range: ByteRange, signal: AbortSignal): Promise<number> {
    if (this.#passed !== null) return this.#passed.readableTo(range);
    try {
      return await (this.#isUnverified
        ? this.#reader.arrivedTo(range, signal)
        : this.#reader.readableTo(range, signal));
    } catch (error) {
      if (!isStoreFailure(error)) throw error;
      this.#passed = await this.#goOn(range.start);
      return this.#passed.readableTo(range);
    }
  }

  read(offset: number, target: Buffer): Promise<void> {
    return (this.#passed ?? this.#reader).read(offset, target);
  }

  async close(): Promise<void> {
    this.#reader.leave();
    await this.#passed?.close();
  }

  async #goOn(start: number): Promise<PassedBlob> {
    const passer = this.#passer();
    const verification = verificationOf(passer.digest);
    for (let offset = 0; offset < start; offset += PIECE_BYTES) {
      const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, start - offset));
      await this.#reader.read(offset, piece);
      verification.digester.update(piece);
    }
    return passer.begin({ start, verification });
  }
}

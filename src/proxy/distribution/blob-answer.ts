import type { ByteSource } from '../../format/byte-source.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Answer, ServedRequest } from '../../oci/serving/answer.ts';
import { blobHeaders, streamed, whatIsAsked } from '../../oci/serving/blob-part.ts';
import { conditionalAnswer } from '../../oci/serving/conditions.ts';
import { PIECE_BYTES, wholeSource } from '../../oci/serving/stream.ts';
import { isStoreFailure } from '../../store/errors.ts';
import { type Blobs, leave } from '../content/blobs.ts';
import type { Download } from '../content/download.ts';
import { HELD_BACK_BYTES } from '../content/held-back.ts';
import type { Target } from '../upstream/upstreams.ts';
import { answerPassed, SurvivingReader } from './blob-passing.ts';

/** How long a short answer's headers wait for the verdict on the blob. */
const HEADERS_WITHIN_MS = 5_000;

/**
 * GET or HEAD of a blob (distribution-spec, "Pulling blobs"). A HEAD tells of the whole blob: ranges are for GET (RFC
 * 9110, 14.2). With `unverified=1` an answer out of a blob that is on its way may be complete before the blob is
 * verified: for nodes, which get it in parts, and verify the whole.
 */
export async function answerBlob(
  blobs: Blobs,
  target: Target,
  digest: Digest,
  request: ServedRequest,
): Promise<Answer> {
  const { method, headers, query, signal } = request;
  const decided = conditionalAnswer(headers, digest);
  // A condition is for what there is.
  if (method === 'HEAD' || decided !== null) {
    const sizeBytes = await blobs.sizeBytes(target, digest, signal);
    return decided ?? { status: 200, headers: blobHeaders(digest, sizeBytes), body: null };
  }
  const found = await blobs.find(target, digest, signal);
  request.notes.source = found.kind === 'stored' ? 'cache' : 'fill';
  if (found.kind === 'stored') return answerStored(found.source, digest, request);
  if (found.kind === 'no-room') return answerPassed(blobs, target, digest, request);
  try {
    const sizeBytes = await unlessAborted(found.download.sizeBytes, signal);
    const asked = whatIsAsked(request, digest, sizeBytes);
    const lengthBytes = asked.range.end - asked.range.start;
    const isUnverified = query.get('unverified') === '1';
    if (!isUnverified && lengthBytes <= HELD_BACK_BYTES) {
      await whenVerified(found.download, lengthBytes, signal);
    }
    const passer = () => blobs.passer(target, digest, signal);
    const reader = new SurvivingReader(found.reader, passer, isUnverified);
    return streamed(reader, asked, () => reader.close());
  } catch (error) {
    await leave(found);
    if (isStoreFailure(error)) return answerPassed(blobs, target, digest, request);
    throw error;
  }
}

/**
 * Nothing of a short answer is sent before the blob is verified: if that is soon, a failure can still be told as an
 * error. But clients do not wait for headers for ever (containerd: 30 seconds).
 */
async function whenVerified({ verified }: Download, lengthBytes: number, signal: AbortSignal): Promise<void> {
  // An empty answer is complete with its headers.
  if (lengthBytes === 0) return void (await unlessAborted(verified, signal));
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, HEADERS_WITHIN_MS);
  try {
    await unlessAborted(Promise.race([verified, late]), signal);
  } finally {
    clearTimeout(timer);
  }
}

/** Takes over the source: it is closed when the answer is out. */
async function answerStored(source: ByteSource, digest: Digest, request: ServedRequest): Promise<Answer> {
  try {
    const asked = whatIsAsked(request, digest, source.size);
    const { status, headers, range } = asked;
    if (range.end - range.start > PIECE_BYTES) {
      return streamed(wholeSource(source), asked, () => source.close());
    }
    const bytes = Buffer.allocUnsafe(range.end - range.start);
    await source.read(range.start, bytes);
    await source.close();
    return { status, headers, body: bytes };
  } catch (error) {
    await source.close();
    throw error;
  }
}

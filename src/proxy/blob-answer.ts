import type { ByteSource } from '../format/byte-source.ts';
import { unlessAborted } from '../format/unless-aborted.ts';
import type { Digest } from '../oci/digest.ts';
import type { Answer, ProxyRequest } from './answer.ts';
import { type Blobs, leave } from './blobs.ts';
import { conditionalAnswer, etagOf } from './conditions.ts';
import { type Download, HELD_BACK_BYTES } from './download.ts';
import { RequestError } from './errors.ts';
import { type ByteRange, decideRange } from './range.ts';
import { PIECE_BYTES, type StreamSource, sendRange, wholeSource } from './stream.ts';
import type { Target } from './upstreams.ts';

/** How long a short answer's headers wait for the verdict on the blob. */
const HEADERS_WITHIN_MS = 5_000;

/**
 * GET or HEAD of a blob (distribution-spec, "Pulling blobs"). A HEAD tells of the whole blob: ranges are for GET (RFC
 * 9110, 14.2).
 */
export async function answerBlob(
  blobs: Blobs,
  target: Target,
  digest: Digest,
  request: ProxyRequest,
): Promise<Answer> {
  const { method, headers, signal } = request;
  const decided = conditionalAnswer(headers, digest);
  // A condition is for what there is.
  if (method === 'HEAD' || decided !== null) {
    const sizeBytes = await blobs.sizeBytes(target, digest, signal);
    return decided ?? { status: 200, headers: blobHeaders(digest, sizeBytes), body: null };
  }
  const found = await blobs.find(target, digest, signal);
  request.notes.source = found.kind === 'stored' ? 'cache' : 'fill';
  if (found.kind === 'stored') return answerStored(found.source, digest, request);
  try {
    const sizeBytes = await unlessAborted(found.download.sizeBytes, signal);
    const asked = whatIsAsked(request, digest, sizeBytes);
    const lengthBytes = asked.range.end - asked.range.start;
    if (lengthBytes <= HELD_BACK_BYTES) await verified(found.download, lengthBytes, signal);
    return streamed(found.reader, asked, async () => found.reader.leave());
  } catch (error) {
    await leave(found);
    throw error;
  }
}

/**
 * Nothing of a short answer is sent before the blob is verified: if that is soon, a failure can still be told as an
 * error. But clients do not wait for headers for ever (containerd: 30 seconds).
 */
async function verified({ finished }: Download, lengthBytes: number, signal: AbortSignal): Promise<void> {
  // An empty answer is complete with its headers.
  if (lengthBytes === 0) return void (await unlessAborted(finished, signal));
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, HEADERS_WITHIN_MS);
  try {
    await unlessAborted(Promise.race([finished, late]), signal);
  } finally {
    clearTimeout(timer);
  }
}

/** Takes over the source: it is closed when the answer is out. */
async function answerStored(source: ByteSource, digest: Digest, request: ProxyRequest): Promise<Answer> {
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

interface Asked {
  readonly status: 200 | 206;
  readonly headers: Readonly<Record<string, string>>;
  readonly range: ByteRange;
}

/** @throws RequestError RANGE_INVALID */
function whatIsAsked({ headers }: ProxyRequest, digest: Digest, sizeBytes: number): Asked {
  const decision = decideRange(headers.range, headers['if-range']?.toString(), etagOf(digest), sizeBytes);
  switch (decision.kind) {
    case 'whole':
      return { status: 200, headers: blobHeaders(digest, sizeBytes), range: { start: 0, end: sizeBytes } };
    case 'part': {
      const { start, end } = decision.range;
      const contentRange = { 'content-range': `bytes ${start}-${end - 1}/${sizeBytes}` };
      return {
        status: 206,
        headers: { ...blobHeaders(digest, end - start), ...contentRange },
        range: { start, end },
      };
    }
    case 'unsatisfiable':
      throw new RequestError('RANGE_INVALID', `the blob has ${sizeBytes} bytes`, {
        headers: { 'content-range': `bytes */${sizeBytes}` },
      });
  }
}

function streamed(source: StreamSource, asked: Asked, close: () => Promise<void>): Answer {
  const { status, headers, range } = asked;
  return {
    status,
    headers,
    body: { send: (outgoing, signal) => sendRange(outgoing, source, range, signal), close },
  };
}

function blobHeaders(digest: Digest, contentLength: number): Record<string, string> {
  return {
    'content-type': 'application/octet-stream',
    'content-length': String(contentLength),
    'docker-content-digest': digest,
    etag: etagOf(digest),
    'accept-ranges': 'bytes',
  };
}

import type { ByteSource } from '../format/byte-source.ts';
import type { Digest } from '../oci/digest.ts';
import { distributionError } from '../oci/errors.ts';
import { type Answer, bufferAnswer, type ProxyRequest } from './answer.ts';
import { type Blobs, leave } from './blobs.ts';
import { type DownloadReader, HELD_BACK_BYTES } from './download.ts';
import { type ByteRange, decideRange } from './range.ts';
import { unlessAborted } from './single-flight.ts';
import { PIECE_BYTES, type StreamSource, sendRange, wholeSource } from './stream.ts';
import type { Target } from './upstreams.ts';

/** GET or HEAD of a blob (distribution-spec, "Pulling blobs"). */
export async function answerBlob(
  blobs: Blobs,
  target: Target,
  digest: Digest,
  request: ProxyRequest,
): Promise<Answer> {
  const { method, headers, signal } = request;
  if (method === 'HEAD') {
    const sizeBytes = await blobs.sizeBytes(target, digest, signal);
    return { status: 200, headers: blobHeaders(digest, sizeBytes), body: null };
  }
  // A part is answered from verified bytes only: who takes parts cannot verify them by the blob's digest.
  if (headers.range !== undefined) {
    return answerStored(await blobs.whole(target, digest, signal), digest, request);
  }
  const found = await blobs.find(target, digest, signal);
  if (found.kind === 'stored') return answerStored(found.source, digest, request);
  try {
    const sizeBytes = await unlessAborted(found.download.sizeBytes, signal);
    if (sizeBytes > HELD_BACK_BYTES) return answerDownload(found.reader, digest, sizeBytes);
  } catch (error) {
    await leave(found);
    throw error;
  }
  // Nothing of it would be sent before it is verified: a failure can still be told as an error.
  await leave(found);
  return answerStored(await blobs.whole(target, digest, signal), digest, request);
}

/** Takes over the source: it is closed when the answer is out. */
async function answerStored(source: ByteSource, digest: Digest, request: ProxyRequest): Promise<Answer> {
  const { range: wanted, 'if-range': ifRange } = request.headers;
  const decision = decideRange(wanted, ifRange?.toString(), etagOf(digest), source.size);
  if (decision.kind === 'unsatisfiable') {
    await source.close();
    const { status, body } = distributionError('RANGE_INVALID', `the blob has ${source.size} bytes`);
    return bufferAnswer(status, Buffer.from(body), {
      'content-type': 'application/json',
      'content-range': `bytes */${source.size}`,
    });
  }
  const range = decision.kind === 'part' ? decision.range : { start: 0, end: source.size };
  const length = range.end - range.start;
  const part = { 'content-range': `bytes ${range.start}-${range.end - 1}/${source.size}` };
  const headers = { ...blobHeaders(digest, length), ...(decision.kind === 'part' ? part : {}) };
  const status = decision.kind === 'part' ? 206 : 200;
  if (length > PIECE_BYTES) {
    return { status, headers, body: streamed(wholeSource(source), range, () => source.close()) };
  }
  try {
    const bytes = Buffer.allocUnsafe(length);
    await source.read(range.start, bytes);
    return { status, headers, body: bytes };
  } finally {
    await source.close();
  }
}

function answerDownload(reader: DownloadReader, digest: Digest, sizeBytes: number): Answer {
  const body = streamed(reader, { start: 0, end: sizeBytes }, async () => reader.leave());
  return { status: 200, headers: blobHeaders(digest, sizeBytes), body };
}

function streamed(source: StreamSource, range: ByteRange, close: () => Promise<void>): Answer['body'] {
  return { send: (outgoing, signal) => sendRange(outgoing, source, range, signal), close };
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

function etagOf(digest: Digest): string {
  return `"${digest}"`;
}

import type { Digest } from '../digest.ts';
import type { Answer, ServedRequest } from './answer.ts';
import { etagOf } from './conditions.ts';
import { type ByteRange, decideRange } from './range.ts';
import { RequestError } from './request-error.ts';
import { type StreamSource, sendRange } from './stream.ts';

/** The part of a blob that a request is answered with. */
export interface Asked {
  readonly status: 200 | 206;
  readonly headers: Readonly<Record<string, string>>;
  readonly range: ByteRange;
}

/** @throws RequestError RANGE_INVALID */
export function whatIsAsked({ headers }: ServedRequest, digest: Digest, sizeBytes: number): Asked {
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

export function streamed(source: StreamSource, asked: Asked, close: () => Promise<void>): Answer {
  const { status, headers, range } = asked;
  return {
    status,
    headers,
    body: { send: (outgoing, signal) => sendRange(outgoing, source, range, signal), close },
  };
}

export function blobHeaders(digest: Digest, contentLength: number): Record<string, string> {
  return {
    'content-type': 'application/octet-stream',
    'content-length': String(contentLength),
    'docker-content-digest': digest,
    etag: etagOf(digest),
    'accept-ranges': 'bytes',
  };
}

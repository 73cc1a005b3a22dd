import type { Readable } from 'node:stream';
import { type RegistryContext, RegistryError } from './errors.ts';
import { discard, type HttpResponse, header, headerBytes } from './registry-http.ts';

/** Part of a blob: from `offset` on, to its end or at most `length` bytes. */
export interface BlobRange {
  readonly offset?: number | undefined;
  readonly length?: number | undefined;
}

/** A running download, of a blob whose size the answer may not have told. */
export interface UnsizedDownload {
  /** 200 although a range was asked for: the registry sends the blob from its start. */
  readonly status: 200 | 206;
  /** Of the whole blob; null if the registry does not say. */
  readonly sizeBytes: number | null;
  /** Where in the blob `body` starts. */
  readonly offsetBytes: number;
  /** Of `body`; null if the registry does not say. */
  readonly lengthBytes: number | null;
  /** To be read to the end or destroyed; it fails when the connection breaks. */
  readonly body: Readable;
}

/** The `Range` header for a part; none for a whole blob. */
export function rangeHeaders({ offset = 0, length }: BlobRange): Record<string, string> {
  if (offset === 0 && length === undefined) return {};
  return { range: `bytes=${offset}-${length === undefined ? '' : offset + length - 1}` };
}

/**
 * What an answer to such a request holds, once its headers agree with the request and each other.
 * @throws RegistryError ERR_REGISTRY_PROTOCOL; the body is destroyed then
 */
export function downloadFrom(
  response: HttpResponse,
  range: BlobRange,
  context: RegistryContext,
): UnsizedDownload {
  const { statusCode: status, body } = response;
  const lengthBytes = headerBytes(response, 'content-length');
  if (status === 200) return { status, sizeBytes: lengthBytes, offsetBytes: 0, lengthBytes, body };
  const contentRange = header(response, 'content-range');
  const got = status === 206 ? parseContentRange(contentRange) : null;
  if (status === 206 && got !== null && isWhatWasAsked(got, range)) {
    const length = got.last - got.first + 1;
    if (lengthBytes === null || lengthBytes === length) {
      return { status, sizeBytes: got.size, offsetBytes: got.first, lengthBytes: length, body };
    }
  }
  discard(body);
  const asked = rangeHeaders(range)['range'] ?? 'all of it';
  throw new RegistryError(
    'ERR_REGISTRY_PROTOCOL',
    context,
    `the registry answered ${status} with range ${contentRange ?? 'not given'} and length ${lengthBytes ?? 'not given'}, asked was ${asked}`,
    { status },
  );
}

interface ContentRange {
  readonly first: number;
  readonly last: number;
  /** Null where it says `*`. */
  readonly size: number | null;
}

/** RFC 9110, 14.4, of one range in bytes. */
function parseContentRange(value: string | null): ContentRange | null {
  const match = /^bytes ([0-9]{1,15})-([0-9]{1,15})\/([0-9]{1,15}|\*)$/.exec(value ?? '');
  if (match === null) return null;
  const range = {
    first: Number(match[1]),
    last: Number(match[2]),
    size: match[3] === '*' ? null : Number(match[3]),
  };
  return range.last < range.first ? null : range;
}

/** A range may end early only where the blob does. */
function isWhatWasAsked({ first, last, size }: ContentRange, { offset = 0, length }: BlobRange): boolean {
  if (first !== offset) return false;
  const wantedLast = length === undefined ? null : offset + length - 1;
  if (size === null) return wantedLast === null || last === wantedLast;
  return last === Math.min(wantedLast ?? size - 1, size - 1);
}

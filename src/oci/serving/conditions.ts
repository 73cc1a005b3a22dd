import type { IncomingHttpHeaders } from 'node:http';
import type { Digest } from '../digest.ts';
import { type Answer, bufferAnswer } from './answer.ts';

/** Quotes do not occur in our tags, nor commas. */
const ENTITY_TAG = /(?<weak>W\/)?"(?<opaque>[^"]*)"/g;

/** The strong entity tag of what a digest names. */
export function etagOf(digest: Digest): string {
  return `"${digest}"`;
}

/**
 * The answer to a conditional GET or HEAD whose condition decides it, else null (RFC 9110, 13.2.2): 412 where
 * `If-Match` names other versions, 304 where `If-None-Match` names this one. Dates decide nothing: what a digest
 * names has no time of change.
 */
export function conditionalAnswer(headers: IncomingHttpHeaders, digest: Digest): Answer | null {
  const { 'if-match': ifMatch, 'if-none-match': ifNoneMatch } = headers;
  const named = { etag: etagOf(digest), 'docker-content-digest': digest };
  if (ifMatch !== undefined && !names(ifMatch, digest, 'strong')) {
    return bufferAnswer(412, Buffer.alloc(0), named);
  }
  if (ifNoneMatch !== undefined && names(ifNoneMatch, digest, 'weak')) {
    return { status: 304, headers: named, body: null };
  }
  return null;
}

function names(header: string, digest: Digest, comparison: 'strong' | 'weak'): boolean {
  const text = header.trim();
  // Docker's registry takes the digest without quotes, too, and there are clients that send it so.
  if (text === '*' || text === digest) return true;
  return [...text.matchAll(ENTITY_TAG)].some(
    ({ groups }) => groups?.['opaque'] === digest && (comparison === 'weak' || groups['weak'] === undefined),
  );
}

import { RequestError } from './request-error.ts';

/** What a request line names. */
export interface RequestTarget {
  /** As it was sent: nothing is decoded or resolved, so that all who look at it see the same. */
  readonly pathname: string;
  readonly query: URLSearchParams;
  /** The query as it was sent, with its question mark; empty if there is none. */
  readonly search: string;
}

const ORIGIN = /^https?:\/\/[^/?#]*/i;
/** `.` and `..`, also encoded, between slashes of either kind: what URL parsers resolve. */
const DOT_SEGMENT = /(?:^|[\\/])(?:\.|%2e){1,2}(?=[\\/]|$)/i;

/** Reads origin form (`/v2/?ns=a`) and absolute form (RFC 9112, 3.2). */
export function readTarget(target: string): RequestTarget {
  const text = target.replace(ORIGIN, '');
  const mark = text.indexOf('?');
  const pathname = mark === -1 ? text : text.slice(0, mark);
  const search = mark === -1 ? '' : text.slice(mark);
  return { pathname, query: new URLSearchParams(search), search };
}

/**
 * A path that leads elsewhere than it says is not followed: no client of a registry sends one.
 * @throws RequestError NAME_INVALID
 */
export function refuseDotSegments(pathname: string): void {
  if (DOT_SEGMENT.test(pathname)) throw new RequestError('NAME_INVALID', 'a path may not hold . or ..');
}

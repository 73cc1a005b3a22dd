import { RequestError } from '../../oci/serving/request-error.ts';

/** Which part of a list a request asks for (distribution-spec, "Listing Tags"). */
export interface PageRequest {
  /** At most so many entries; null if the client leaves it open. */
  readonly limit: number | null;
  /** Entries behind this one; it need not be in the list. */
  readonly last: string | null;
}

/**
 * Reads `n` and `last`.
 * @throws RequestError PAGINATION_NUMBER_INVALID
 */
export function readPage(query: URLSearchParams): PageRequest {
  const text = query.get('n') ?? '';
  if (text !== '' && !/^\d{1,15}$/.test(text)) {
    throw new RequestError(
      'PAGINATION_NUMBER_INVALID',
      `n is ${JSON.stringify(text.slice(0, 40))}, not a number from 0 on`,
      { detail: { n: text.slice(0, 40) } },
    );
  }
  return { limit: text === '' ? null : Number(text), last: query.get('last') || null };
}

export interface Page<T> {
  readonly entries: readonly T[];
  /** `last` of the request for what follows; null if nothing does. */
  readonly next: string | null;
}

/** A page of a list that is sorted by `keyOf` in byte order. No entries, no next page: who asks for none is done. */
export function pageOf<T>(
  sorted: readonly T[],
  keyOf: (entry: T) => string,
  { limit, last }: PageRequest,
): Page<T> {
  const after = last === null ? sorted : sorted.filter((entry) => byBytes(keyOf(entry), last) > 0);
  const entries = limit === null ? after : after.slice(0, limit);
  const end = entries.at(-1);
  return { entries, next: end === undefined || entries.length === after.length ? null : keyOf(end) };
}

/** The `Link` header to the page behind `last` (RFC 8288), with the request's other parameters. */
export function linkHeader(
  path: string,
  query: URLSearchParams,
  next: string | null,
): Record<string, string> {
  if (next === null) return {};
  const following = new URLSearchParams(query);
  following.set('last', next);
  return { link: `<${path}?${following}>; rel="next"` };
}

/** Tags, digests and names are ASCII: the order of code units is that of bytes. */
export function byBytes(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

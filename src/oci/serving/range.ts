/** Bytes `start` up to, not including, `end`. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

export type RangeDecision =
  /** 200: no range, or one that may be ignored. */
  | { readonly kind: 'whole' }
  /** 206 */
  | { readonly kind: 'part'; readonly range: ByteRange }
  /** 416 */
  | { readonly kind: 'unsatisfiable' };

const WHOLE: RangeDecision = { kind: 'whole' };
const UNSATISFIABLE: RangeDecision = { kind: 'unsatisfiable' };
const ONE_RANGE = /^bytes\s*=\s*(?<first>\d*)\s*-\s*(?<last>\d*)$/i;

/**
 * What a request with these headers gets of `sizeBytes` bytes with this strong ETag (RFC 9110, sections 14.2
 * and 13.1.5). Other units, several ranges and what is not well formed are ignored, as the RFC lets a server do;
 * a range that ends before it begins is refused, as the spec's conformance suite wants it.
 */
export function decideRange(
  rangeHeader: string | undefined,
  ifRangeHeader: string | undefined,
  etag: string,
  sizeBytes: number,
): RangeDecision {
  if (rangeHeader === undefined) return WHOLE;
  // A date never matches: blobs have no Last-Modified.
  if (ifRangeHeader !== undefined && ifRangeHeader.trim() !== etag) return WHOLE;
  const groups = ONE_RANGE.exec(rangeHeader.trim())?.groups;
  if (groups === undefined) return WHOLE;
  const { first = '', last = '' } = groups;
  if (first === '' && last === '') return WHOLE;
  if (first === '') {
    const start = Math.max(0, sizeBytes - Number(last));
    return start < sizeBytes ? { kind: 'part', range: { start, end: sizeBytes } } : UNSATISFIABLE;
  }
  const start = Number(first);
  const end = last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  return start < end ? { kind: 'part', range: { start, end } } : UNSATISFIABLE;
}

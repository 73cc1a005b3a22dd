import { RequestError } from '../../oci/serving/request-error.ts';

/** Less than clients and what stands between allow before headers come. */
const MAX_WAIT_MS = 20_000;

/** @throws RequestError NAME_INVALID */
export function required(query: URLSearchParams, name: string): string {
  const value = query.get(name);
  if (value === null) throw new RequestError('NAME_INVALID', `the parameter ${name} is missing`);
  return value;
}

/** How long an answer may wait, of a parameter in seconds; not at all if there is none. @throws RequestError NAME_INVALID */
export function waitMs(text: string | null): number {
  if (text === null) return 0;
  if (!/^\d{1,6}$/.test(text)) {
    throw new RequestError('NAME_INVALID', `${JSON.stringify(text)} is no number of seconds to wait`);
  }
  return Math.min(Number(text) * 1000, MAX_WAIT_MS);
}

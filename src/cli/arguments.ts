import { InvalidArgumentError } from 'commander';

/** A URL of a proxy. */
export function httpUrl(text: string): URL {
  const url = URL.parse(text);
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new InvalidArgumentError('write http://HOST[:PORT] or https://HOST[:PORT]');
  }
  return url;
}

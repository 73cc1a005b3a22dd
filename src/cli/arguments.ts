import { InvalidArgumentError } from 'commander';

/** A URL of a proxy. */
export function httpUrl(text: string): URL {
  const url = URL.parse(text);
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new InvalidArgumentError('write http://HOST[:PORT] or https://HOST[:PORT]');
  }
  return url;
}

export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('write a number');
  return value;
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12 };

/** Bytes, with k, M, G or T for thousands: `1.5G`. */
export function byteSize(text: string): number {
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?)([kMGT]?)$/.exec(text) ?? [];
  if (number === undefined) throw new InvalidArgumentError('write bytes, for example 500M or 20G');
  return Math.round(Number(number) * (UNITS[unit] ?? 1));
}

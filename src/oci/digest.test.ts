import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { chainIds } from './chain-id.ts';
import {
  Digester,
  digestAlgorithm,
  digestHex,
  digestOf,
  isDigest,
  matchesDigest,
  parseDigest,
} from './digest.ts';

const EMPTY_SHA256 = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

test('the digest of nothing is the well-known one', () => {
  expect(digestOf('')).toBe(EMPTY_SHA256);
});

test('sha256 and sha512 digests are accepted and taken apart', () => {
  const long = digestOf('abc', 'sha512');
  expect(parseDigest(EMPTY_SHA256)).toBe(EMPTY_SHA256);
  expect(parseDigest(long)).toBe(long);
  expect([digestAlgorithm(long), digestHex(long)]).toEqual([
    'sha512',
    createHash('sha512').update('abc').digest('hex'),
  ]);
});

test.each([
  '',
  'sha256:',
  EMPTY_SHA256.toUpperCase(),
  EMPTY_SHA256.replace('e3', 'E3'),
  EMPTY_SHA256.slice(0, -1),
  `${EMPTY_SHA256}0`,
  `${EMPTY_SHA256}\n`,
  EMPTY_SHA256.replace('sha256', 'sha512'),
  EMPTY_SHA256.replace('sha256', 'md5'),
  'sha256:../../../../etc/passwd',
])('%j is no digest', (text) => {
  expect(isDigest(text)).toBe(false);
  expect(() => parseDigest(text)).toThrow(expect.objectContaining({ code: 'ERR_DIGEST_INVALID' }));
});

test('pieces have the digest of the whole, and only the same bytes match it', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array()), fc.constantFrom('sha256', 'sha512'), (pieces, algorithm) => {
      const digester = new Digester(algorithm);
      for (const piece of pieces) digester.update(piece);
      const whole = Buffer.concat(pieces);
      const digest = digester.digest();
      expect(matchesDigest(whole, digest)).toBe(true);
      expect(matchesDigest(Buffer.concat([whole, Buffer.of(0)]), digest)).toBe(false);
    }),
  );
});

test('a chain ID is the first diff ID, then the digest of chain and diff ID', () => {
  const [a, b, c] = [digestOf('a'), digestOf('b'), digestOf('c')];
  const ab = `sha256:${createHash('sha256').update(`${a} ${b}`).digest('hex')}`;
  const abc = `sha256:${createHash('sha256').update(`${ab} ${c}`).digest('hex')}`;
  expect(chainIds([a, b, c])).toEqual([a, ab, abc]);
  expect(chainIds([])).toEqual([]);
});

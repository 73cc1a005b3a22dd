import { expect, test } from 'vitest';
import { digestOf } from '../digest.ts';
import { parseDistributionPath, unknownCode } from './paths.ts';

const DIGEST = digestOf('x');

test('each path of the pull side is read into its parts', () => {
  expect(parseDistributionPath('/v2')).toEqual({ kind: 'base' });
  expect(parseDistributionPath('/v2/')).toEqual({ kind: 'base' });
  expect(parseDistributionPath('/v2/_catalog')).toEqual({ kind: 'repositories' });
  expect(parseDistributionPath('/v2/lib/py/manifests/3.11')).toEqual({
    kind: 'manifest',
    name: 'lib/py',
    reference: { kind: 'tag', tag: '3.11' },
  });
  expect(parseDistributionPath(`/v2/lib/py/manifests/${DIGEST}`)).toEqual({
    kind: 'manifest',
    name: 'lib/py',
    reference: { kind: 'digest', digest: DIGEST },
  });
  expect(parseDistributionPath(`/v2/py/blobs/${encodeURIComponent(DIGEST)}`)).toEqual({
    kind: 'blob',
    name: 'py',
    digest: DIGEST,
  });
  expect(parseDistributionPath('/v2/a/b/c/tags/list')).toEqual({ kind: 'tags', name: 'a/b/c' });
  expect(parseDistributionPath(`/v2/a/referrers/${DIGEST}`)).toEqual({
    kind: 'referrers',
    name: 'a',
    digest: DIGEST,
  });
});

test('a repository may be called like an endpoint', () => {
  expect(parseDistributionPath('/v2/manifests/blobs/manifests/tags')).toEqual({
    kind: 'manifest',
    name: 'manifests/blobs',
    reference: { kind: 'tag', tag: 'tags' },
  });
});

test.each([
  ['/v2/a/blobs/sha256:abc', 'DIGEST_INVALID'],
  ['/v2/a/referrers/latest', 'DIGEST_INVALID'],
  [`/v2/a/manifests/${DIGEST.toUpperCase()}`, 'DIGEST_INVALID'],
  ['/v2/a/manifests/-x', 'MANIFEST_UNKNOWN'],
  [`/v2/a/manifests/${'t'.repeat(129)}`, 'MANIFEST_UNKNOWN'],
  ['/v2/a/manifests/%ff', 'NAME_INVALID'],
  ['/v2/_catalog/', 'NAME_UNKNOWN'],
  ['/v2/a/blobs/uploads/', 'BLOB_UPLOAD_UNKNOWN'],
  ['/v2/a/b/blobs/uploads/5e5d', 'BLOB_UPLOAD_UNKNOWN'],
  ['/v2/manifests/1', 'NAME_UNKNOWN'],
])('%s is refused with %s', (path, code) => {
  expect(() => parseDistributionPath(path)).toThrow(expect.objectContaining({ distributionCode: code }));
});

test.each([
  ['/v2/a/manifests/1', 'MANIFEST_UNKNOWN'],
  ['/v2/a/blobs/b/manifests/1', 'MANIFEST_UNKNOWN'],
  [`/v2/a/blobs/${DIGEST}`, 'BLOB_UNKNOWN'],
  ['/v2/a/tags/list', 'NAME_UNKNOWN'],
])('what upstream does not have at %s is %s', (path, code) => {
  expect(unknownCode(path)).toBe(code);
});

test('of a long mistake only the beginning is told', () => {
  const path = `/v2/a/blobs/${'x'.repeat(10_000)}`;
  expect(() => parseDistributionPath(path)).toThrow(/^"x{160}…" is not a digest$/);
});

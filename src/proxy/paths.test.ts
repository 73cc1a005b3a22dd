import { expect, test } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { parseDistributionPath } from './paths.ts';

const DIGEST = digestOf('x');

test('each path of the pull side is read into its parts', () => {
  expect(parseDistributionPath('/v2')).toEqual({ kind: 'base' });
  expect(parseDistributionPath('/v2/')).toEqual({ kind: 'base' });
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
  ['/v2/_catalog', 'NAME_UNKNOWN'],
  ['/v2/manifests/1', 'NAME_UNKNOWN'],
])('%s is refused with %s', (path, code) => {
  expect(() => parseDistributionPath(path)).toThrow(expect.objectContaining({ distributionCode: code }));
});

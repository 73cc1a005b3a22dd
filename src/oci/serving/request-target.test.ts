import { expect, test } from 'vitest';
import { readTarget, refuseDotSegments } from './request-target.ts';

test.each([
  ['/v2/', '/v2/', ''],
  ['/v2/a/tags/list?n=1&last=b', '/v2/a/tags/list', 'n=1&last=b'],
  ['http://proxy:5000/v2/?ns=a', '/v2/', 'ns=a'],
  ['/v2/a/../b//c%2f?x', '/v2/a/../b//c%2f', 'x='],
  ['//elsewhere/v2/', '//elsewhere/v2/', ''],
  ['*', '*', ''],
])('%s is read as it was sent', (target, pathname, query) => {
  const read = readTarget(target);
  expect([read.pathname, read.query.toString()]).toEqual([pathname, query]);
});

test.each(['/v2/../healthz', '/v2/a/..', '/v2/./a', '/v2/%2e%2E/a', '/v2/.%2e/a', '/v2/a\\..\\b'])(
  '%s is refused',
  (pathname) => {
    expect(() => refuseDotSegments(pathname)).toThrow(
      expect.objectContaining({ distributionCode: 'NAME_INVALID' }),
    );
  },
);

test.each(['/v2/a.b/manifests/1..2', '/v2/a/manifests/v1.', '/v2/...'])('%s has none', (pathname) => {
  expect(() => refuseDotSegments(pathname)).not.toThrow();
});

import { expect, test } from 'vitest';
import { linkHeader, pageOf, readPage } from './paging.ts';

const page = (query: string) => readPage(new URLSearchParams(query));

test('n and last are read', () => {
  expect(page('')).toEqual({ limit: null, last: null });
  expect(page('n=&last=')).toEqual({ limit: null, last: null });
  expect(page('n=0&last=a')).toEqual({ limit: 0, last: 'a' });
});

test.each(['-1', 'ten', '1.5', '0x10', ' 1', '1e3', '9'.repeat(16)])('n=%s is refused', (n) => {
  expect(() => page(`n=${encodeURIComponent(n)}`)).toThrow(
    expect.objectContaining({ distributionCode: 'PAGINATION_NUMBER_INVALID' }),
  );
});

test.each([
  ['n=2', ['a', 'b'], 'b'],
  ['n=2&last=b', ['c', 'd'], null],
  ['n=2&last=aa', ['b', 'c'], 'c'],
  ['n=4', ['a', 'b', 'c', 'd'], null],
  ['n=0', [], null],
  ['last=d', [], null],
  ['last=c', ['d'], null],
])('of a, b, c, d the request %s gets %j', (query, entries, next) => {
  expect(pageOf(['a', 'b', 'c', 'd'], (entry) => entry, page(query))).toEqual({ entries, next });
});

test('the link to the next page keeps what else was asked', () => {
  const query = new URLSearchParams('ns=quay.io&n=2&last=a');
  expect(linkHeader('/v2/x/tags/list', query, 'b')).toEqual({
    link: '</v2/x/tags/list?ns=quay.io&n=2&last=b>; rel="next"',
  });
  expect(linkHeader('/v2/x/tags/list', query, null)).toEqual({});
});

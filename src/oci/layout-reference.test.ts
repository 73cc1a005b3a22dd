import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatLayoutReference, parseLayoutReference } from './layout-reference.ts';

test.each([
  ['oci:images', { directory: 'images', tag: null }],
  ['oci:/a/b:1.0_obd', { directory: '/a/b', tag: '1.0_obd' }],
  ['oci:/a:b/c', { directory: '/a:b/c', tag: null }],
  ['oci:/a:b/c:d', { directory: '/a:b/c', tag: 'd' }],
  ['oci:/a:b/', { directory: '/a:b/', tag: null }],
  ['oci:/a:no tag', { directory: '/a:no tag', tag: null }],
  ['localhost:5000/a', null],
])('%s', (text, expected) => {
  expect(parseLayoutReference(text)).toEqual(expected);
});

test('what is written is read back, whatever the directory is called', () => {
  const tag = fc.option(fc.stringMatching(/^\w[\w.-]{0,9}$/));
  fc.assert(
    fc.property(fc.stringMatching(/^[a:./-]{1,9}$/), tag, (directory, tag) => {
      const { directory: back, tag: sameTag } = parseLayoutReference(
        formatLayoutReference({ directory, tag }),
      ) ?? { directory: '', tag: '' };
      expect(sameTag).toBe(tag);
      expect([directory, `${directory}/`]).toContain(back);
    }),
  );
});

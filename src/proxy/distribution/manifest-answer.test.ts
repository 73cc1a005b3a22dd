import { expect, test } from 'vitest';
import { warningHeader } from './manifest-answer.ts';

test.each([
  ['long', 'x'.repeat(10_000)],
  ['with quotes', '"quoted" \\ back'],
  ['of two lines', 'two\r\nlines: 1'],
  ['not in ASCII', 'größer — 本'.repeat(1000)],
])('a warning is one quoted line of ASCII, at most 4096 bytes: a text that is %s', (_what, text) => {
  const { warning = '' } = warningHeader(text);
  expect(warning).toMatch(/^299 - "[ !#-[\]-~]+"$/);
  expect(warning.length).toBeLessThanOrEqual(4096);
});

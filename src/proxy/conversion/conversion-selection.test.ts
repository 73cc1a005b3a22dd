import { expect, test } from 'vitest';
import { ConversionSelection, type SelectionOptions } from './conversion-selection.ts';

function selection(options: Partial<SelectionOptions>) {
  return new ConversionSelection({
    include: [],
    exclude: [],
    platforms: 'all',
    minImageBytes: 0,
    ...options,
  });
}

/** Whether `UPSTREAM/REPOSITORY` with these tags is converted. */
function isConverted(options: Partial<SelectionOptions>, name: string, ...tags: string[]): boolean {
  const slash = name.indexOf('/');
  const where = { upstream: name.slice(0, slash), repository: name.slice(slash + 1) };
  return selection(options).whyLeft(where, tags) === null;
}

test('without patterns everything is converted', () => {
  expect(isConverted({}, 'docker.io/library/python', '3')).toBe(true);
});

test.each([
  ['docker.io/library/*', 'docker.io/library/python', true],
  ['docker.io/*', 'docker.io/library/python', false],
  ['docker.io/**', 'docker.io/library/python', true],
  ['**/python', 'docker.io/library/python', true],
  ['**/pytho?', 'docker.io/library/python', true],
  ['docker.io/library/pyt', 'docker.io/library/python', false],
  ['reg.example:5000/a/b', 'reg.example:5000/a/b', true],
  ['quay.io/a.b/c', 'quay.io/axb/c', false],
])('the pattern %s fits %s: %s', (pattern, name, fits) => {
  expect(isConverted({ include: [pattern] }, name)).toBe(fits);
  expect(isConverted({ exclude: [pattern] }, name)).toBe(!fits);
});

test('a pattern with a tag speaks of that tag only', () => {
  const nightly = { exclude: ['**:nightly-*'] };
  expect(isConverted(nightly, 'quay.io/a/b', 'nightly-2')).toBe(false);
  expect(isConverted(nightly, 'quay.io/a/b', '1.0')).toBe(true);
  expect(isConverted(nightly, 'quay.io/a/b')).toBe(true);
  expect(isConverted({ include: ['quay.io/a/b:1.*'] }, 'quay.io/a/b')).toBe(false);
});

test('one tag that is wanted is enough', () => {
  expect(isConverted({ exclude: ['**:nightly'] }, 'quay.io/a/b', 'nightly', '1.0')).toBe(true);
});

test('what is excluded is so though it is included', () => {
  const options = { include: ['quay.io/**'], exclude: ['quay.io/secret/**'] };
  expect(isConverted(options, 'quay.io/a/b')).toBe(true);
  expect(isConverted(options, 'quay.io/secret/b')).toBe(false);
});

test('the reason names the pattern', () => {
  const where = { upstream: 'quay.io', repository: 'a/b' };
  expect(selection({ exclude: ['quay.io/a/*'] }).whyLeft(where, [])).toContain('"quay.io/a/*"');
  expect(selection({ include: ['x/*'] }).whyLeft(where, ['1'])).toContain('quay.io/a/b:1');
});

test('platforms are all, those that are asked for, or those of a list with their variants', () => {
  const arm64 = { os: 'linux', architecture: 'arm64', variant: 'v8' };
  expect(selection({ platforms: 'all' }).wants(undefined)).toBe(true);
  expect(selection({ platforms: 'requested' }).wants(arm64)).toBe(false);
  expect(selection({ platforms: ['linux/amd64', 'linux/arm64'] }).wants(arm64)).toBe(true);
  expect(selection({ platforms: ['linux/arm'] }).wants(arm64)).toBe(false);
});

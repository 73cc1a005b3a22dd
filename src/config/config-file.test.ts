import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { isSet, mergeSettings, readConfigFile } from './config-file.ts';

const work = mkdtempSync(join(tmpdir(), 'dadi-config-'));
const file = join(work, 'proxy.yaml');
afterAll(() => rmSync(work, { recursive: true }));

function read(text: string) {
  writeFileSync(file, text);
  return readConfigFile(file);
}

test('an empty file says nothing', () => {
  expect(read('# nothing\n')).toEqual({});
});

test.each([
  ['a: 1\nb: [1\nc: 2\n', /proxy\.yaml:\d+:\d+: this is not YAML/],
  ['a: 1\n  b: 2\n', /proxy\.yaml:\d+:\d+: /],
  ['a: 1\na: 2\n', /proxy\.yaml:2:1: .*unique/],
  ['- a\n', /proxy\.yaml: this is not a list of "key: value" lines/],
])('%j is refused, with line and column where there are some', (text, message) => {
  expect(() => read(text)).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(message) }),
  );
});

test('an error of syntax does not repeat what stands there', () => {
  expect(() => read('password: "geheim\n')).toThrow(expect.not.stringContaining('geheim'));
});

test('settings are merged key by key, and what was said where is known', () => {
  const under = { a: { b: 1, c: 2 }, list: [1] };
  expect(mergeSettings(under, { a: { b: 3, c: undefined }, admin: null })).toEqual({
    a: { b: 3, c: 2 },
    list: [1],
    admin: null,
  });
  expect(isSet(under, ['a', 'b'])).toBe(true);
  expect(isSet(under, ['list', 0, 'name'])).toBe(true);
  expect(isSet(under, ['a', 'd'])).toBe(false);
  expect(isSet({ a: { b: undefined } }, ['a', 'b'])).toBe(false);
});

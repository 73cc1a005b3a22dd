import { chmodSync, chownSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getuid } from 'node:process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makePrivateDirectory } from './private-directory.ts';

let parent: string;

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'dadi-private-'));
});

afterEach(() => {
  rmSync(parent, { recursive: true });
});

test('a directory that is not there is made for its user alone, and taken again', () => {
  const path = join(parent, 'a/b');
  makePrivateDirectory(path);
  makePrivateDirectory(path);
  expect(statSync(path).mode & 0o777).toBe(0o700);
});

test.each([0o777, 0o1777, 0o720])('one that others may write to (mode %o) is refused', (mode) => {
  chmodSync(parent, mode);
  expect(() => makePrivateDirectory(parent)).toThrow(/others could change/);
});

test.skipIf(getuid?.() !== 0)('one that belongs to somebody else is refused', () => {
  chownSync(parent, 65_534, 65_534);
  expect(() => makePrivateDirectory(parent)).toThrow('belongs to user 65534');
});

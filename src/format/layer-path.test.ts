import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FormatError } from './errors.ts';
import { MAX_NAME_BYTES, normaliseEntryPath, whiteoutOf } from './layer-path.ts';

describe('normaliseEntryPath', () => {
  it.each([
    ['', ''],
    ['.', ''],
    ['./', ''],
    ['/', ''],
    ['./a', 'a'],
    ['/a/b/', 'a/b'],
    ['a//b', 'a/b'],
    ['a/./b/.', 'a/b'],
    ['...', '...'],
    ['..a/b..', '..a/b..'],
    ['caf\xe9/\n', 'caf\xe9/\n'],
  ])('reads %j as %j', (path, expected) => {
    expect(normaliseEntryPath(path)).toBe(expected);
  });

  it.each(['..', '../a', 'a/../b', '/..', 'a/..'])('refuses to climb with %j', (path) => {
    expect(() => normaliseEntryPath(path)).toThrow(
      expect.objectContaining({ code: 'ERR_LAYER_CONFLICT', message: expect.stringContaining(path) }),
    );
  });

  it('takes names of 255 bytes and paths of 4,096, and none longer', () => {
    const name = 'n'.repeat(MAX_NAME_BYTES);
    const path = `${'n/'.repeat(2047)}nn`;
    expect(normaliseEntryPath(name)).toBe(name);
    expect(normaliseEntryPath(path)).toBe(path);
    expect(whiteoutOf(normaliseEntryPath(`d/.wh.${name}`))).toEqual({ kind: 'whiteout', path: `d/${name}` });
    const limit = expect.objectContaining({ code: 'ERR_LIMIT' });
    expect(() => normaliseEntryPath(`d/.wh.${name}n`)).toThrow(limit);
    expect(() => normaliseEntryPath(`${name}n`)).toThrow(limit);
    expect(() => normaliseEntryPath(`${path}n`)).toThrow(limit);
  });

  it('leaves what it made as it is', () => {
    const paths = fc.array(fc.constantFrom('a', '.', '', '.wh.a', '\xff'), { maxLength: 8 });
    fc.assert(
      fc.property(paths, (components) => {
        const once = normaliseEntryPath(components.join('/'));
        expect(normaliseEntryPath(once)).toBe(once);
        expect(once).not.toMatch(/^\/|\/$|\/\/|(^|\/)\.(\/|$)/);
      }),
    );
  });
});

describe('whiteoutOf', () => {
  it.each([
    ['.wh.a', { kind: 'whiteout', path: 'a' }],
    ['dir/.wh.a', { kind: 'whiteout', path: 'dir/a' }],
    ['dir/.wh.a.wh.b', { kind: 'whiteout', path: 'dir/a.wh.b' }],
    ['.wh..hidden', { kind: 'whiteout', path: '.hidden' }],
    ['.wh..wh..opq', { kind: 'opaque', path: '' }],
    ['dir/.wh..wh..opq', { kind: 'opaque', path: 'dir' }],
    ['.wh..wh.plnk', { kind: 'whiteout', path: '.wh.plnk' }],
    ['.wh..wh.plnk/12.34', null],
    ['dir/.wh..wh.aufs', { kind: 'whiteout', path: 'dir/.wh.aufs' }],
    ['dir/.wh..wh..opqx', { kind: 'whiteout', path: 'dir/.wh..opqx' }],
    ['a', null],
    ['', null],
    ['.whale', null],
    ['a.wh.b', null],
    ['.wh.a/b', null],
  ])('reads %j', (path, expected) => {
    expect(whiteoutOf(path)).toEqual(expected);
  });

  it.each(['.wh.', 'dir/.wh.', '.wh..', 'dir/.wh...'])('refuses %j, which names nothing', (path) => {
    expect(() => whiteoutOf(path)).toThrow(expect.objectContaining({ code: 'ERR_LAYER_CONFLICT' }));
  });
});

it('is the same with and without what may stand around its names', () => {
  const name = fc.constantFrom(
    '',
    '.',
    '..',
    'a',
    '...',
    '.a',
    'b..',
    '.wh.c',
    'x'.repeat(255),
    'y'.repeat(260),
  );
  const outcome = (path: string) => {
    try {
      return normaliseEntryPath(path);
    } catch (error) {
      return (error as FormatError).code;
    }
  };
  fc.assert(
    fc.property(fc.array(name, { maxLength: 5 }), (names) => {
      const path = names.join('/');
      for (const same of [`./${path}`, `/${path}`, `${path}/`, `././/${path}/.`]) {
        expect(outcome(same)).toBe(outcome(path));
      }
    }),
    { numRuns: 500 },
  );
});

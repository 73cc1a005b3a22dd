import { describe, expect, it } from 'vitest';
import { splitPath } from './erofs-path.ts';

describe('a path in an archive', () => {
  it.each([
    ['', []],
    ['./', []],
    ['/a//b/./c/', ['a', 'b', 'c']],
    ['../../a', ['a']],
    ['a/../b', ['b']],
    ['..a/.b/...', ['..a', '.b', '...']],
  ])('%j is made of %j', (path, names) => {
    expect(splitPath(path)).toEqual(names);
  });
});

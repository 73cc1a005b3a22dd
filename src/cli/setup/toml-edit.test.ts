import { expect, test } from 'vitest';
import { setValue, type TomlSetting, takeBack } from './toml-edit.ts';

const set = (text: string, path: string, value: TomlSetting['value']) =>
  setValue(text, { path: path.split(' '), value });

test('a value is put where its table is, and all else stays as it is', () => {
  const cases: [string, string, TomlSetting['value'], string][] = [
    ['', 'version', 2, 'version = 2\n'],
    ['# only this', 'version', 2, 'version = 2\n# only this'],
    ['a = 1', 'b c', 'x', 'a = 1\n\n[b]\n  c = "x"\n'],
    ['[b]\n[d]\n', 'b c', true, '[b]\n  c = true\n[d]\n'],
    ['[b]\n\tz = 1 # z\n\n[d]', 'b c', true, '[b]\n\tz = 1 # z\n\tc = true\n\n[d]'],
    ['[b]', 'b c', true, '[b]\n  c = true\n'],
    ['b.z = 1\n[d]\n', 'b c', true, 'b.z = 1\nb.c = true\n[d]\n'],
    ['[a]\nb.z = [\n 1, # ]\n]\n', 'a b c', true, '[a]\nb.z = [\n 1, # ]\n]\nb.c = true\n'],
    ['[a."x.y"]\n', 'a x.y c', 'q"', '[a."x.y"]\n  c = "q\\""\n'],
    ["[a.'x.y']\n", 'a x.y c', 1, "[a.'x.y']\n  c = 1\n"],
    ['s = """\n[b]\nc = 1\n"""\n', 'b c', 2, 's = """\n[b]\nc = 1\n"""\n\n[b]\n  c = 2\n'],
    ["s = '''\n[b]'''\n[b]\r\nc = 1979-05-27 07:32:00\r\n", 'b c', 2, "s = '''\n[b]'''\n[b]\r\nc = 2\r\n"],
    ['[b]\nc="old"# why\n', 'b c', 'new', '[b]\nc="new"# why\n'],
    ['[[b.c]]\n[d]\n', 'd e', 1, '[[b.c]]\n[d]\n  e = 1\n'],
  ];
  for (const [before, path, value, after] of cases) expect(set(before, path, value).text, before).toBe(after);
});

test('what is so already is left, however it is quoted', () => {
  for (const text of ['[b]\nc = "x"\n', "[b]\nc = 'x'\n", 'b.c = "x"\n', '"b" . c = "x"']) {
    expect(set(text, 'b c', 'x')).toEqual({ text, change: null });
  }
});

test('a change is taken back and leaves what others have written meanwhile', () => {
  for (const before of ['', 'a = 1\n', '[b]\nz = 1\n', '[b]\nc = "old" # why\n', '[b.d]\nx = 1\n']) {
    const { text, change } = set(before, 'b c', 'x');
    const undone = takeBack(`${text}[later]\n`, change!);
    expect(undone.replaceAll(/\n+/g, '\n')).toBe(`${before}[later]\n`.replace(/^\n/, ''));
    const overwritten = text.replace('"x"', '"theirs"');
    expect(takeBack(overwritten, change!)).toBe(overwritten);
  }
});

test('a table that is written in one piece is refused by its line, and so is what is no TOML', () => {
  expect(() => set('x = 1\nb = { z = 1 }\n', 'b c', 1)).toThrow(/line 2 writes b in one piece.*\[b\]/);
  expect(() => set('[[b]]\nz = 1\n', 'b c', 1)).toThrow(/line 1 writes b/);
  for (const text of ['[b\n', 'a = \n', 'a\n', '= 1\n', 'a = 1 2\n', 'a = [1\n', 'a = "x\n', 'a = 1]\n']) {
    expect(() => set(text, 'b c', 1), text).toThrow(/no TOML/);
  }
});

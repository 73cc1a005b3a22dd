const SIMPLE_ESCAPES: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
};

const ESCAPE = /\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))/gsu;

/**
 * The string that a Go string literal stands for, null if it is none. Between slashes or vertical bars, as
 * containerd's filters allow for regular expressions, the same escapes hold as between quotation marks.
 */
export function unquoteGo(literal: string): string | null {
  const quote = literal[0] ?? '';
  const parts: Buffer[] = [];
  let end = 1;
  const body = literal.slice(0, -1);
  for (const match of body.matchAll(ESCAPE)) {
    const [whole, hex, octal, short, long, plain] = match;
    parts.push(Buffer.from(body.slice(end, match.index)));
    end = match.index + whole.length;
    const escaped = byteEscape(hex, octal) ?? runeEscape(short ?? long) ?? plainEscape(plain, quote);
    if (escaped === null) return null;
    parts.push(escaped);
  }
  parts.push(Buffer.from(body.slice(end)));
  return Buffer.concat(parts).toString();
}

function byteEscape(hex: string | undefined, octal: string | undefined): Buffer | null {
  if (hex !== undefined) return Buffer.from(hex, 'hex');
  if (octal === undefined || Number.parseInt(octal, 8) > 0xff) return null;
  return Buffer.from([Number.parseInt(octal, 8)]);
}

function runeEscape(digits: string | undefined): Buffer | null {
  if (digits === undefined || Number.parseInt(digits, 16) > 0x10ffff) return null;
  return Buffer.from(String.fromCodePoint(Number.parseInt(digits, 16)));
}

function plainEscape(character: string | undefined, quote: string): Buffer | null {
  if (character === undefined) return null;
  const escaped = character === quote ? quote : SIMPLE_ESCAPES[character];
  return escaped === undefined ? null : Buffer.from(escaped);
}

/** Classes that JavaScript has under another name, or not at all (https://github.com/google/re2/wiki/Syntax). */
const CLASSES: Readonly<Record<string, string>> = {
  alnum: 'A-Za-z0-9',
  alpha: 'A-Za-z',
  ascii: '\\x00-\\x7F',
  blank: '\\t ',
  cntrl: '\\x00-\\x1F\\x7F',
  digit: '0-9',
  graph: '!-~',
  lower: 'a-z',
  print: ' -~',
  punct: '!-\\/:-@\\[-`\\{-~',
  space: '\\t\\n\\v\\f\\r ',
  upper: 'A-Z',
  word: '0-9A-Za-z_',
  xdigit: '0-9A-Fa-f',
};

/**
 * The JavaScript form of a regular expression in Go's syntax: flags at its beginning, named groups, `\A`, `\z` and
 * classes such as `[[:alpha:]]` are spelt otherwise there. Null if it is no expression in either language: then
 * containerd takes it for one that nothing matches.
 */
export function goRegExp(pattern: string): RegExp | null {
  const [, flags = '', rest = ''] = /^(?:\(\?([ims]+)\))?(.*)$/s.exec(pattern) ?? [];
  const spelt = rest
    .replace(/\(\?P</g, '(?<')
    .replace(/\[:([a-z]+):\]/g, (whole, name: string) => CLASSES[name] ?? whole)
    .replace(/(\\\\)|\\([Az])/g, (_, backslash?: string, anchor?: string) => {
      if (backslash !== undefined) return backslash;
      return anchor === 'A' ? '(?<![^])' : '(?![^])';
    });
  // Only what asks for it is read strictly: Go lets any punctuation be escaped.
  const strict = /\\[pP]/.test(spelt) ? 'u' : '';
  try {
    return new RegExp(spelt, `${[...new Set(flags)].join('')}${strict}`);
  } catch {
    return null;
  }
}

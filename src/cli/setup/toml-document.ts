import { SetupError } from './setup-error.ts';

/** `KEY = VALUE`, wherever it stands. */
export interface TomlEntry {
  /** With its table's. */
  readonly path: readonly string[];
  /** As it is written. */
  readonly value: string;
  /** Offset of the first character of the key. */
  readonly start: number;
  readonly valueStart: number;
  readonly valueEnd: number;
  /** The header above it; null at the top. */
  readonly table: TomlHeader | null;
  readonly line: number;
}

/** `[TABLE]` or `[[TABLE]]` */
export interface TomlHeader {
  readonly path: readonly string[];
  readonly isArray: boolean;
  readonly start: number;
  /** Offset behind it, in its line. */
  readonly end: number;
  readonly line: number;
}

/**
 * Where in a TOML text its tables and values stand (TOML 1.0), so that one of them can be changed and the rest stays
 * as it is, comments and all. Values are not looked into.
 */
export class TomlDocument {
  readonly entries: readonly TomlEntry[];
  readonly headers: readonly TomlHeader[];

  /** @throws SetupError for what is no TOML, as far as it is seen */
  constructor(text: string) {
    const { entries, headers } = new Scanner(text).scan();
    this.entries = entries;
    this.headers = headers;
  }

  entry(path: readonly string[]): TomlEntry | null {
    return this.entries.find((entry) => isSame(entry.path, path)) ?? null;
  }

  header(path: readonly string[]): TomlHeader | null {
    return this.headers.find((header) => !header.isArray && isSame(header.path, path)) ?? null;
  }
}

export function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && startsWith(one, other);
}

export function startsWith(path: readonly string[], prefix: readonly string[]): boolean {
  return prefix.every((part, index) => path[index] === part);
}

const BARE_KEY = /[A-Za-z0-9_-]+/y;
const BASIC_STRING = /"(?:[^"\\\n]|\\.)*"/y;
const LITERAL_STRING = /'[^'\n]*'/y;
const MULTILINE_STRING = /"""(?:[^\\]|\\[\s\S])*?"{3,5}|'''[\s\S]*?'{3,5}/y;
const SPACE = /[ \t]*/y;
const BLANK = /(?:[ \t\r\n]|#[^\n]*)*/y;
/** A space stands in dates with a time only. */
const SCALAR = /[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.Z+-]+|[^\s,#[\]{}"'=]+/y;

class Scanner {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  scan(): { entries: TomlEntry[]; headers: TomlHeader[] } {
    const entries: TomlEntry[] = [];
    const headers: TomlHeader[] = [];
    let table: TomlHeader | null = null;
    for (this.#skip(BLANK); this.#at < this.#text.length; this.#skip(BLANK)) {
      if (this.#text[this.#at] === '[') {
        table = this.#header();
        headers.push(table);
      } else entries.push(this.#entry(table));
      this.#skip(SPACE);
      const next = this.#text[this.#at];
      if (next !== undefined && next !== '\n' && next !== '\r' && next !== '#') throw this.#broken();
    }
    return { entries, headers };
  }

  #header(): TomlHeader {
    const start = this.#at;
    const line = this.#line();
    const brackets = this.#text.startsWith('[[', start) ? 2 : 1;
    this.#at += brackets;
    const path = this.#key();
    if (!this.#text.startsWith(']'.repeat(brackets), this.#at)) throw this.#broken();
    this.#at += brackets;
    return { path, isArray: brackets === 2, start, end: this.#at, line };
  }

  #entry(table: TomlHeader | null): TomlEntry {
    const start = this.#at;
    const line = this.#line();
    const path = [...(table?.path ?? []), ...this.#key()];
    if (this.#text[this.#at] !== '=') throw this.#broken();
    this.#at++;
    this.#skip(SPACE);
    const valueStart = this.#at;
    this.#value();
    const valueEnd = this.#at;
    return { path, value: this.#text.slice(valueStart, valueEnd), start, valueStart, valueEnd, table, line };
  }

  #key(): string[] {
    const parts: string[] = [];
    do {
      if (parts.length > 0) this.#at++;
      this.#skip(SPACE);
      const bare = this.#take(BARE_KEY);
      const quoted = bare === null ? (this.#take(BASIC_STRING) ?? this.#take(LITERAL_STRING)) : null;
      if (bare !== null) parts.push(bare);
      else if (quoted !== null) parts.push(unquote(quoted));
      else throw this.#broken();
      this.#skip(SPACE);
    } while (this.#text[this.#at] === '.');
    return parts;
  }

  #value(): void {
    let depth = 0;
    do {
      if (depth > 0) this.#skip(BLANK);
      const next = this.#text[this.#at];
      if (next === '[' || next === '{') depth++;
      if (next === ']' || next === '}') depth--;
      if (next !== undefined && '[]{}'.includes(next)) this.#at++;
      else if (depth > 0 && (next === ',' || next === '=')) this.#at++;
      else {
        const taken = this.#take(MULTILINE_STRING) ?? this.#take(BASIC_STRING) ?? this.#take(LITERAL_STRING);
        if (taken === null && this.#take(SCALAR) === null) throw this.#broken();
      }
    } while (depth > 0);
    if (depth < 0) throw this.#broken();
  }

  #skip(pattern: RegExp): void {
    this.#take(pattern);
  }

  #take(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at;
    const [found] = pattern.exec(this.#text) ?? [];
    if (found === undefined) return null;
    this.#at += found.length;
    return found;
  }

  #line(): number {
    return this.#text.slice(0, this.#at).split('\n').length;
  }

  #broken(): SetupError {
    return new SetupError(`line ${this.#line()} is no TOML: put that right first`);
  }
}

function unquote(quoted: string): string {
  if (quoted.startsWith("'")) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    // An escape that JSON does not know: whatever it is, it is none of the keys that are looked for.
    return quoted;
  }
}

import { goRegExp, unquoteGo } from './go-text.ts';
import { SnapshotError } from './snapshot-error.ts';
import type { Labels, SnapshotKind } from './snapshots-api.ts';

/** What filters look at. */
export interface FilteredSnapshot {
  readonly name: string;
  readonly kind: SnapshotKind;
  /** Empty if there is none. */
  readonly parent: string;
  readonly labels: Labels;
}

export type SnapshotFilter = (snapshot: FilteredSnapshot) => boolean;

const SPACE = /\s*/y;
const FIELD = /[A-Za-z0-9_]+/y;
const OPERATOR = /[=!~]+/y;
/** One of the three quotes, and up to the next of the same that no backslash stands before. */
const QUOTED = /(["/|])(?:\\[^\n]|(?!\1)[^\\\n])*\1/suy;
/** What Go takes for graphic characters, but the comma. A value begins with neither operator, separator nor quote. */
const VALUE = /(?![=!~.,"/|])(?:(?!,)[\p{L}\p{M}\p{N}\p{P}\p{S}])+/uy;

/**
 * Reads filters as containerd writes them (its package filters): each is a list of selectors with commas between, of
 * which all must hold; of the filters one must hold. A selector is a path of fields, `labels."some.label"`, alone (is
 * there any?) or with `==`, `!=` or `~=` and a value. No filter at all lets everything pass, as an empty one does.
 * @throws SnapshotError ERR_SNAPSHOT_ARGUMENT
 */
export function parseFilters(filters: readonly string[]): SnapshotFilter {
  if (filters.length === 0) return () => true;
  const parsed = filters.map((text) => new FilterParser(text).parse());
  return (snapshot) => parsed.some((filter) => filter(snapshot));
}

class FilterParser {
  readonly #text: string;
  #offset = 0;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): SnapshotFilter {
    if (this.#text === '') return () => true;
    const selectors = [this.#selector()];
    while (this.#offset < this.#text.length) {
      if (this.#take(/,/y) === null) throw this.#unexpected('a comma or the end');
      selectors.push(this.#selector());
    }
    return (snapshot) => selectors.every((selector) => selector(snapshot));
  }

  #selector(): SnapshotFilter {
    const path = this.#path();
    if (this.#offset === this.#text.length || this.#text[this.#offset] === ',') {
      return (snapshot) => fieldOf(snapshot, path) !== null;
    }
    this.#take(SPACE);
    const operator = this.#take(OPERATOR);
    this.#take(SPACE);
    switch (operator) {
      case '==': {
        const value = this.#value(/^"/);
        return (snapshot) => fieldOf(snapshot, path) === value;
      }
      case '!=': {
        const value = this.#value(/^"/);
        return (snapshot) => (fieldOf(snapshot, path) ?? '') !== value;
      }
      case '~=': {
        const pattern = goRegExp(this.#value(/^["/|]/));
        return (snapshot) => pattern?.test(fieldOf(snapshot, path) ?? '') ?? false;
      }
      default:
        throw this.#unexpected('one of the operators ==, != and ~=');
    }
  }

  #path(): string[] {
    const path = [this.#field()];
    while (this.#take(/\./y) !== null) path.push(this.#field());
    return path;
  }

  #field(): string {
    this.#take(SPACE);
    const field = this.#take(FIELD) ?? this.#quoted(/^"/);
    if (field === null) throw this.#unexpected('a field');
    return field;
  }

  #value(quotes: RegExp): string {
    const value = this.#quoted(quotes) ?? this.#take(VALUE);
    if (value === null) throw this.#unexpected('a value');
    return value;
  }

  #quoted(quotes: RegExp): string | null {
    const start = this.#offset;
    const quoted = this.#take(QUOTED);
    if (quoted === null) return null;
    const text = quotes.test(quoted) ? unquoteGo(quoted) : null;
    if (text !== null) return text;
    this.#offset = start;
    throw this.#unexpected('a string quoted as in Go');
  }

  #take(pattern: RegExp): string | null {
    pattern.lastIndex = this.#offset;
    const [match] = pattern.exec(this.#text) ?? [];
    if (match === undefined) return null;
    this.#offset += match.length;
    return match;
  }

  #unexpected(expected: string): SnapshotError {
    const before = JSON.stringify(this.#text.slice(0, this.#offset));
    const after = JSON.stringify(this.#text.slice(this.#offset));
    return new SnapshotError(
      'ERR_SNAPSHOT_ARGUMENT',
      `not a filter: after ${before}, ${expected} must stand, not ${after}`,
    );
  }
}

/** Null for what a snapshot does not have. */
function fieldOf({ name, kind, parent, labels }: FilteredSnapshot, path: readonly string[]): string | null {
  switch (path[0]) {
    case 'name':
      return name;
    case 'kind':
      return kind;
    case 'parent':
      return parent;
    case 'labels': {
      const label = path.slice(1).join('.');
      return Object.hasOwn(labels, label) ? (labels[label] ?? null) : null;
    }
    default:
      return null;
  }
}

import { SetupError } from './setup-error.ts';
import { isSame, startsWith, TomlDocument, type TomlEntry } from './toml-document.ts';

/** A value to be set: strings and truth values only. */
export interface TomlSetting {
  readonly path: readonly string[];
  readonly value: string | boolean | number;
}

/** How a file was before a setting: null if it had no such value. */
export interface TomlChange {
  readonly path: readonly string[];
  readonly after: string;
  readonly before: string | null;
}

/**
 * Sets a value and leaves all else as it is.
 * @throws SetupError where tables are written in a way that nothing can be put into
 */
export function setValue(
  text: string,
  { path, value }: TomlSetting,
): { readonly text: string; readonly change: TomlChange | null } {
  const document = new TomlDocument(text);
  const after = typeof value === 'string' ? JSON.stringify(value) : String(value);
  const present = document.entry(path);
  if (present !== null) {
    if (sameValue(present.value, after)) return { text, change: null };
    return { text: replaced(text, present, after), change: { path, after, before: present.value } };
  }
  refuseClosedTables(document, path);
  return { text: inserted(text, document, path, after), change: { path, after, before: null } };
}

/** Takes a change back, if the value is still the one that was set. */
export function takeBack(text: string, { path, after, before }: TomlChange): string {
  const document = new TomlDocument(text);
  const entry = document.entry(path);
  if (entry === null || !sameValue(entry.value, after)) return text;
  if (before !== null) return replaced(text, entry, before);
  const without = withoutLines(text, entry.start, entry.valueEnd);
  const { table } = entry;
  if (table === null) return without;
  const isUsed = new TomlDocument(without).entries.some((other) => other.table?.start === table.start);
  return isUsed ? without : withoutLines(without, table.start, table.end);
}

function sameValue(one: string, other: string): boolean {
  return one === other || (/^'[^']*'$/.test(one) && JSON.stringify(one.slice(1, -1)) === other);
}

function replaced(text: string, { valueStart, valueEnd }: TomlEntry, value: string): string {
  return `${text.slice(0, valueStart)}${value}${text.slice(valueEnd)}`;
}

function withoutLines(text: string, start: number, end: number): string {
  const first = text.lastIndexOf('\n', start - 1) + 1;
  const newline = text.indexOf('\n', end);
  return text.slice(0, first) + (newline === -1 ? '' : text.slice(newline + 1));
}

/** Inline tables and arrays of tables take nothing from elsewhere. */
function refuseClosedTables({ entries, headers }: TomlDocument, path: readonly string[]): void {
  const inline = entries.find((entry) => entry.path.length < path.length && startsWith(path, entry.path));
  const closed = inline ?? headers.find((header) => header.isArray && startsWith(path, header.path));
  if (closed === undefined) return;
  throw new SetupError(
    `line ${closed.line} writes ${closed.path.join('.')} in one piece: write it as a table of its own, as [${tableName(closed.path)}]`,
  );
}

function inserted(text: string, document: TomlDocument, path: readonly string[], value: string): string {
  const table = path.slice(0, -1);
  const header = document.header(table);
  const siblings = document.entries.filter((entry) => isSame(entry.path.slice(0, -1), table));
  const last = siblings.at(-1);
  // Beside the last one of its table, written as that one is.
  if (last !== undefined) {
    const skipped = last.table?.path.length ?? 0;
    const line = `${indentOf(text, last.start)}${tableName(path.slice(skipped))} = ${value}`;
    return insertAfterLine(text, last.valueEnd, line);
  }
  if (header !== null) {
    const line = `${indentOf(text, header.start)}  ${tableName(path.slice(-1))} = ${value}`;
    return insertAfterLine(text, header.end, line);
  }
  if (table.length === 0) return `${tableName(path)} = ${value}\n${text}`;
  const gap = text === '' ? '' : text.endsWith('\n') ? '\n' : '\n\n';
  return `${text}${gap}[${tableName(table)}]\n  ${tableName(path.slice(-1))} = ${value}\n`;
}

function insertAfterLine(text: string, offset: number, line: string): string {
  const newline = text.indexOf('\n', offset);
  if (newline === -1) return `${text}\n${line}\n`;
  return `${text.slice(0, newline + 1)}${line}\n${text.slice(newline + 1)}`;
}

function indentOf(text: string, offset: number): string {
  const first = text.lastIndexOf('\n', offset - 1) + 1;
  return /^[ \t]*/.exec(text.slice(first, offset))?.[0] ?? '';
}

export function tableName(path: readonly string[]): string {
  return path.map((part) => (/^[A-Za-z0-9_-]+$/.test(part) ? part : JSON.stringify(part))).join('.');
}

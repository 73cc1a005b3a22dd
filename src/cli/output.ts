import { stderr, stdout } from 'node:process';

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'] as const;

/** Bytes for people, in powers of 1000: "12.3 MB". */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Rows under headings, columns padded; numbers are for the caller to format. */
export function formatTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  return [headings, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `name  value` lines, names padded. */
export function formatFields(fields: readonly (readonly [string, string])[]): string {
  const width = Math.max(...fields.map(([name]) => name.length));
  return fields.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}

export function printJson(value: unknown): void {
  stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

const REDRAW_MS = 100;
const PLAIN_STEP_MS = 2000;

/** One line on stderr that says how far long work is: redrawn on a terminal, now and then a new one elsewhere. */
export class ProgressLine {
  readonly #quiet: boolean;
  #lastMs = 0;
  #drawn = false;

  constructor(options: { quiet: boolean }) {
    this.#quiet = options.quiet;
  }

  show(text: string): void {
    const nowMs = performance.now();
    if (this.#quiet || nowMs - this.#lastMs < (stderr.isTTY ? REDRAW_MS : PLAIN_STEP_MS)) return;
    this.#lastMs = nowMs;
    stderr.write(stderr.isTTY ? `\r\x1b[K${text.slice(0, (stderr.columns || 80) - 1)}` : `${text}\n`);
    this.#drawn = true;
  }

  /** Takes the line away, before other output. */
  clear(): void {
    if (this.#drawn && stderr.isTTY) stderr.write('\r\x1b[K');
    this.#drawn = false;
  }
}

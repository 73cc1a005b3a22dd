import { readFileSync } from 'node:fs';
import { sep } from 'node:path';

/** Mount points at or under `directory`, newest first (proc_pid_mountinfo(5)). */
export function mountPointsUnder(directory: string): readonly string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => unescapeOctal(line.split(' ')[4] ?? ''))
    .filter((point) => point === directory || point.startsWith(directory + sep))
    .reverse();
}

function unescapeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

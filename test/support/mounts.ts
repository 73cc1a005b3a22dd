import { readFileSync } from 'node:fs';
import { run } from './processes.ts';

/** Unmounts all that is mounted at or below a directory: what a daemon that was ended has left. */
export async function unmountBelow(directory: string): Promise<void> {
  for (const path of mountPoints(directory).reverse()) await run('umount', [path]);
}

/** Where something is mounted at or below a directory, in the order in which it was mounted. */
function mountPoints(directory: string): string[] {
  // proc(5), "mountinfo": the fifth field, where white space is written in octal.
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, octal) =>
        String.fromCharCode(parseInt(octal, 8)),
      ),
    )
    .filter((path) => path === directory || path.startsWith(`${directory}/`));
}

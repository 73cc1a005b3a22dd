import { readdirSync } from 'node:fs';
import { getPriority } from 'node:os';
import process from 'node:process';

/** The niceness of each of this process's threads. */
export function threadPriorities(): number[] {
  return readdirSync(`/proc/${process.pid}/task`).flatMap((thread) => {
    try {
      return [getPriority(Number(thread))];
    } catch {
      // It has ended meanwhile.
      return [];
    }
  });
}

import { readlinkSync } from 'node:fs';
import { setPriority } from 'node:os';
import process from 'node:process';

/**
 * Lets all other threads of the machine go before the calling one. Only Linux gives each thread a priority of its own
 * (sched(7), "The nice value"); elsewhere, and where it is not allowed, nothing changes.
 */
export function lowerThreadPriority(niceness: number): void {
  if (niceness === 0 || process.platform !== 'linux') return;
  try {
    // "1234/task/1240"
    const thread = Number(readlinkSync('/proc/thread-self').split('/').at(-1));
    setPriority(thread, niceness);
  } catch {
    // It converts all the same.
  }
}

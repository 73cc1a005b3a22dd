/** What programs have worked, by the kernel's count. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import type { ClusterHost } from '../test/support/cluster-network.ts';

/** proc(5), "stat": clock ticks are hundredths of a second. */
const TICK_MS = 10;

/** That the machine's processors have worked since it was started. */
export function machineMs(): number {
  // proc(5), "stat": user, nice, system, idle, iowait, irq, softirq, steal.
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = readFileSync('/proc/stat', 'utf8')
    .slice('cpu'.length)
    .trim()
    .split(/\s+/)
    .map(Number);
  return TICK_MS * (user + nice + system + irq + softirq);
}

/** Of all processes of a namespace, and of those that they have started and outlived. */
export function usedMs({ enter }: Pick<ClusterHost, 'enter'>): number {
  const { ino } = statSync(enter.find((word) => word.startsWith('--net='))!.slice('--net='.length));
  let sumMs = 0;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (statSync(`/proc/${name}/ns/net`).ino === ino) sumMs += ownMs(name) + reapedMs(name);
    } catch {
      // It has ended meanwhile.
    }
  }
  return sumMs;
}

/** proc(5), "stat": utime and stime are fields 14 and 15; cutime and cstime, of children that have ended, 16 and 17. */
export function ownMs(process: string): number {
  return ticksOf(process, 14) + ticksOf(process, 15);
}

export function reapedMs(process: string): number {
  return ticksOf(process, 16) + ticksOf(process, 17);
}

function ticksOf(process: string, field: number): number {
  const text = readFileSync(`/proc/${process}/stat`, 'utf8');
  // The second field is the name, which may hold blanks.
  return TICK_MS * Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[field - 3]);
}

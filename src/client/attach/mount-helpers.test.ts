import { readdirSync, readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { SystemCallError } from '../../format/libc.ts';
import { callInHelper, prepareMount, stayReadyToMount } from './mount-helpers.ts';

/** Far longer than a helper is kept for the next mount. */
const LONG_MS = 3_600_000;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
});

afterEach(() => {
  vi.useRealTimers();
});

// In this order: nothing takes back that a process stays ready.
test('a helper that nobody needs for long ends', async () => {
  prepareMount();
  await helpersAre(1);
  await vi.advanceTimersByTimeAsync(LONG_MS);
  await helpersAre(0);
});

test('a process that stays ready to mount keeps one helper, and no more', async () => {
  stayReadyToMount();
  await helpersAre(1);
  await Promise.all([failingCall(), failingCall(), failingCall()]);
  await helpersAre(3);
  await vi.advanceTimersByTimeAsync(LONG_MS);
  const [left] = await helpersAre(1);
  await failingCall();
  await vi.advanceTimersByTimeAsync(LONG_MS);
  expect(await helpersAre(1)).toEqual([left]);
});

/** Nothing is mounted there, and whoever is not root may not look. */
async function failingCall(): Promise<void> {
  await expect(
    callInHelper({ name: 'umount2', target: '/nothing is mounted here', flags: 0 }),
  ).rejects.toBeInstanceOf(SystemCallError);
}

function helpersAre(count: number): Promise<string[]> {
  return vi.waitFor(
    () => {
      const found = helpers();
      expect(found).toHaveLength(count);
      return found;
    },
    { timeout: 60_000, interval: 20 },
  );
}

/** Process ids of this process's children that mount. */
function helpers(): string[] {
  return readdirSync('/proc/self/task')
    .flatMap((thread) => readFileSync(`/proc/self/task/${thread}/children`, 'utf8').split(' '))
    .filter((pid) => pid !== '' && isHelper(pid));
}

function isHelper(pid: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('mount-helper');
  } catch {
    return false;
  }
}

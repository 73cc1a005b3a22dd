import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withRunLock } from './run-lock.ts';

let parent: string;

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'dadi-lock-'));
});

afterEach(() => {
  rmSync(parent, { recursive: true });
});

test('work under one lock does not overlap; failed work lets go of it', async () => {
  const directory = join(parent, 'run');
  let running = 0;
  let most = 0;
  const work = async () => {
    most = Math.max(most, ++running);
    await sleep(10);
    running--;
    throw new Error('tried');
  };
  const results = await Promise.allSettled([1, 2, 3].map(() => withRunLock(directory, work)));
  expect(results.map((result) => result.status === 'rejected' && result.reason.message)).toEqual([
    'tried',
    'tried',
    'tried',
  ]);
  expect(most).toBe(1);
});

test('work under locks of two directories goes on side by side', async () => {
  const inner = withRunLock(join(parent, 'b'), async () => 'done');
  expect(await withRunLock(join(parent, 'a'), () => inner)).toBe('done');
});

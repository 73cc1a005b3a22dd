import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { KeptLease } from './kept-lease.ts';

// No third of it is a whole number of milliseconds.
const LEASE_MS = 1_000;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const keep = (renew: (untilMs: number) => Promise<boolean>, untilMs = Date.now() + LEASE_MS) =>
  new KeptLease({ untilMs, renew, leaseMs: LEASE_MS, log: pino({ level: 'silent' }) });
const tick = (ms: number) => vi.advanceTimersByTimeAsync(ms);

test('a lease that can be renewed is kept for as long as it is needed', async () => {
  const ends: number[] = [];
  const lease = keep(async (untilMs) => ends.push(untilMs - Date.now()) > 0);
  await tick(20 * LEASE_MS);
  expect(lease.signal.aborted).toBe(false);
  expect(new Set(ends)).toEqual(new Set([LEASE_MS]));
  await lease.end();
  const renewals = ends.length;
  await tick(20 * LEASE_MS);
  expect(ends).toHaveLength(renewals);
  expect(lease.signal.aborted).toBe(false);
});

test('one that cannot be renewed is lost when it ends, not a moment later', async () => {
  const lease = keep(() => Promise.reject(new Error('the database is away')));
  await tick(LEASE_MS - 1);
  expect(lease.signal.aborted).toBe(false);
  await tick(1);
  expect(lease.signal.aborted).toBe(true);
});

test('the time that it took to get it counts', async () => {
  const lease = keep(() => new Promise(() => {}), Date.now() + 100);
  await tick(100);
  expect(lease.signal.aborted).toBe(true);
});

test('one that somebody else has is not taken again', async () => {
  const renew = vi.fn(async () => false);
  const lease = keep(renew);
  await tick(20 * LEASE_MS);
  expect(lease.signal.aborted).toBe(true);
  expect(renew).toHaveBeenCalledTimes(1);
});

test('when it is given back, no renewal is under way that could take it once more', async () => {
  const answers: PromiseWithResolvers<boolean>[] = [];
  const lease = keep(() => {
    const answer = Promise.withResolvers<boolean>();
    answers.push(answer);
    return answer.promise;
  });
  await tick(LEASE_MS - 1);
  expect(answers).toHaveLength(1);
  let isGivenBack = false;
  const end = lease.end().then(() => {
    isGivenBack = true;
  });
  await tick(20 * LEASE_MS);
  expect(isGivenBack).toBe(false);
  answers[0]!.resolve(true);
  await end;
});

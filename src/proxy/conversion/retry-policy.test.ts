import { afterEach, expect, test, vi } from 'vitest';
import { ConvertError } from '../../convert/errors.ts';
import { RegistryError } from '../../oci/errors.ts';
import { StoreError } from '../../store/errors.ts';
import { failureOf } from './retry-policy.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const full = new StoreError('ERR_STORE_FULL', 'no space left');

afterEach(() => vi.restoreAllMocks());

/** Milliseconds until the next attempt after the nth failure; null when there is none. */
function delayAfter(error: unknown, attempts: number): number | null {
  const { nextAttemptMs } = failureOf(error, { attempts, policy: 'p', nowMs: 5000 });
  return nextAttemptMs === null ? null : nextAttemptMs - 5000;
}

test.each([
  'ERR_LIMIT',
  'ERR_TAR_CORRUPT',
  'ERR_CONVERT_DIFF_ID',
  'ERR_CONVERT_STREAM',
  'ERR_CONVERT_UNSUPPORTED',
  'ERR_LAYER_CONFLICT',
])('what the bytes of the image bring about (%s) is not tried again by itself', (code) => {
  expect(failureOf(new ConvertError(code, 'why'), { attempts: 1, policy: 'p', nowMs: 0 })).toEqual({
    code,
    message: 'why',
    policy: 'p',
    nextAttemptMs: null,
  });
});

test('a full disk is waited for, from a minute to an hour, most of a day long', () => {
  vi.spyOn(Math, 'random').mockReturnValue(0);
  const delays = [1, 2, 3, 6, 7, 23, 24].map((attempts) => delayAfter(full, attempts));
  expect(delays).toEqual([MINUTE_MS, 2 * MINUTE_MS, 4 * MINUTE_MS, 32 * MINUTE_MS, HOUR_MS, HOUR_MS, null]);
});

test('what failed together does not come back together', () => {
  vi.spyOn(Math, 'random').mockReturnValueOnce(0).mockReturnValueOnce(0.99);
  const [first, second] = [delayAfter(full, 1)!, delayAfter(full, 1)!];
  expect(second - first).toBeGreaterThan(10_000);
  expect(second - first).toBeLessThan(MINUTE_MS);
});

test('a registry that says when to come back is left alone until then', () => {
  const context = { host: 'reg.example', repository: 'a', reference: null };
  const limited = new RegistryError('ERR_REGISTRY_RATE_LIMITED', context, 'slow', {
    retryAfterMs: 2 * HOUR_MS,
  });
  expect(delayAfter(limited, 1)).toBe(2 * HOUR_MS);
});

test.each([
  new ConvertError('ERR_CONVERT_WORKER', 'died'),
  new ConvertError('ERR_CONVERT_TIMEOUT', 'took too long'),
  new TypeError('a defect of ours'),
])('what may never pass is tried three times: %s', (error) => {
  expect([1, 2, 3].map((attempts) => delayAfter(error, attempts) !== null)).toEqual([true, true, false]);
});

test('an error without a code has one all the same', () => {
  expect(failureOf('broken', { attempts: 1, policy: 'p', nowMs: 0 })).toMatchObject({
    code: 'ERR_PROXY_CONVERSION',
    message: 'broken',
  });
});

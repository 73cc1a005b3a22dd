import { setTimeout as sleep } from 'node:timers/promises';
import pRetry from 'p-retry';
import { errorCode } from '../format/error-code.ts';
import { RegistryError } from './errors.ts';

export interface RetryPolicy {
  /** Further attempts after the first. */
  readonly retries: number;
  /** The longest Retry-After that is waited for; one that is longer, or missing on a 429, is the caller's to judge. */
  readonly maxRetryAfterMs: number;
  /** No further attempt begins later than this after the first one began. */
  readonly maxMs?: number;
}

const FIRST_DELAY_MS = 100;
const MAX_DELAY_MS = 2000;

/** Connection errors after which the next attempt may well succeed. Not among them: unknown hosts, bad certificates. */
const TRANSIENT_CODES: ReadonlySet<string> = new Set([
  ...['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'],
  ...['UND_ERR_SOCKET', 'UND_ERR_CONNECT_TIMEOUT'],
]);
/** No answer came: asking again is for who has set the time it may take, for it doubles the wait. */
const NO_ANSWER_CODE = 'UND_ERR_HEADERS_TIMEOUT';
const TRANSIENT_STATUSES: ReadonlySet<number> = new Set([502, 503, 504]);

/**
 * Repeats something idempotent while it fails for a reason that passes, with growing, random pauses.
 * Rejects with the last failure or, once aborted, with the signal's reason, whatever an attempt made of that.
 */
export function withRetries<T>(
  attempt: () => Promise<T>,
  policy: RetryPolicy,
  signal: AbortSignal | undefined,
): Promise<T> {
  return pRetry(attempt, {
    retries: policy.retries,
    minTimeout: FIRST_DELAY_MS,
    maxTimeout: MAX_DELAY_MS,
    randomize: true,
    ...(policy.maxMs === undefined ? {} : { maxRetryTime: policy.maxMs }),
    signal,
    shouldRetry: ({ error }) => isTransient(error, policy),
    onFailedAttempt: async ({ error, retriesLeft }) => {
      if (retriesLeft === 0 || !(error instanceof RegistryError) || !isTransient(error, policy)) return;
      if (error.retryAfterMs === null) return;
      await sleep(error.retryAfterMs, undefined, signal && { signal }).catch(() => signal?.throwIfAborted());
    },
  });
}

function isTransient(error: unknown, { maxRetryAfterMs, maxMs }: RetryPolicy): boolean {
  if (!(error instanceof RegistryError)) return false;
  if (error.retryAfterMs !== null && error.retryAfterMs > maxRetryAfterMs) return false;
  switch (error.code) {
    case 'ERR_REGISTRY_BODY':
      return true;
    case 'ERR_REGISTRY_RATE_LIMITED':
      return error.retryAfterMs !== null;
    case 'ERR_REGISTRY_STATUS':
      return TRANSIENT_STATUSES.has(error.status ?? 0);
    case 'ERR_REGISTRY_UNREACHABLE': {
      const code = errorCode(error.cause) ?? '';
      return TRANSIENT_CODES.has(code) || (code === NO_ANSWER_CODE && maxMs !== undefined);
    }
    default:
      return false;
  }
}

import type { Clock } from './clock.ts';

/**
 * What `work` gives, if it does within `ms`; its signal fires after that, or with `signal`.
 * @throws what `work` rejects with: when time is up, a TimeoutError if it obeys its signal
 */
export async function withinMs<T>(
  clock: Clock,
  ms: number,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const limit = new AbortController();
  const over = new AbortController();
  const onAbort = () => limit.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  clock.sleep(ms, over.signal).then(
    () => limit.abort(new DOMException(`nothing within ${ms} ms`, 'TimeoutError')),
    () => {},
  );
  try {
    return await work(limit.signal);
  } finally {
    over.abort();
    signal.removeEventListener('abort', onAbort);
  }
}

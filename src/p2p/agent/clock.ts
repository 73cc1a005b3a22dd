/** Time, as far as the mesh's rules need it: a simulator brings another one. */
export interface Clock {
  /** Milliseconds since some moment; never goes back. */
  now(): number;
  /** Rejects with the signal's reason when it fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** The time of this machine. What sleeps keeps no process alive. */
export const systemClock: Clock = {
  now: () => performance.now(),
  // Not that of node:timers/promises: runs end sleeps by the hundred, and it makes an error with a stack for each.
  sleep: (ms, signal) => {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms).unref();
    signal?.addEventListener('abort', onAbort, { once: true });
    return promise;
  },
};

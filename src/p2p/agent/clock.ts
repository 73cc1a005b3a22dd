import { setTimeout as sleepFor } from 'node:timers/promises';

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
  sleep: async (ms, signal) => {
    try {
      await sleepFor(ms, undefined, { ref: false, ...(signal === undefined ? {} : { signal }) });
    } catch (error) {
      throw signal?.aborted ? signal.reason : error;
    }
  },
};

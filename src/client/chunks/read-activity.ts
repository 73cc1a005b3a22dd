import { unlessAborted } from '../../format/unless-aborted.ts';

/** How many reads wait for chunks just now, over all blobs: what can wait itself makes way for them. */
export class ReadActivity {
  #waiting = 0;
  #idle: ReturnType<typeof Promise.withResolvers<void>> | null = null;

  /** Counts a read for as long as it waits. */
  async during<T>(read: Promise<T>): Promise<T> {
    this.#waiting++;
    this.#idle ??= Promise.withResolvers();
    try {
      return await read;
    } finally {
      if (--this.#waiting === 0) {
        this.#idle.resolve();
        this.#idle = null;
      }
    }
  }

  /** Resolves once no read waits; rejects with the signal's reason. */
  async idle(signal?: AbortSignal): Promise<void> {
    while (this.#idle !== null) await unlessAborted(this.#idle.promise, signal);
  }
}

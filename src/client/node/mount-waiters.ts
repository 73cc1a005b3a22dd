import { unlessAborted } from '../../format/unless-aborted.ts';
import { ClientError } from '../errors.ts';

/** Those who wait for one mount: it is given up when there are none any more. */
export class MountWaiters {
  readonly #abandoned = new AbortController();
  #count = 0;

  get signal(): AbortSignal {
    return this.#abandoned.signal;
  }

  giveUp(): void {
    this.#abandoned.abort(new ClientError('ERR_ATTACH_FAILED', 'the node daemon is stopping'));
  }

  async wait<T>(done: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    this.#count++;
    try {
      return await unlessAborted(done, signal);
    } finally {
      this.#count--;
      if (this.#count === 0 && signal?.aborted) this.#abandoned.abort(signal?.reason);
    }
  }
}

import { setTimeout as sleep } from 'node:timers/promises';
import pLimit from 'p-limit';
import type { MountPaths } from './mount-records.ts';

const FIRST_RETRY_MS = 1_000;
const MAX_RETRY_MS = 60_000;

/**
 * Mounts of an earlier daemon that could be neither taken up nor cleaned up at the first attempt, for an error that may
 * pass. They stay as they are, since containers may stand on them and wait, and are tried again and again.
 */
export class LeftMounts {
  readonly #takeUp: (paths: MountPaths) => Promise<void>;
  /** By their directories. */
  readonly #left = new Map<string, MountPaths>();
  readonly #oneByOne = pLimit(1);
  readonly #closed = new AbortController();
  #retrying: Promise<void> | null = null;

  /** @param takeUp resolves when the mount is taken up, or nothing is left of it; rejects if it has to be tried again */
  constructor(takeUp: (paths: MountPaths) => Promise<void>) {
    this.#takeUp = takeUp;
  }

  get all(): readonly MountPaths[] {
    return [...this.#left.values()];
  }

  add(paths: MountPaths): void {
    this.#left.set(paths.directory, paths);
    this.#retrying ??= this.#retry().finally(() => {
      this.#retrying = null;
    });
  }

  /** Tries it now, if it is one of these. @throws what made it fail: it stays one of these */
  takeUp({ directory }: MountPaths): Promise<void> {
    return this.#settle(directory, this.#takeUp);
  }

  /** Removes all of them in place of taking them up. @throws what made one fail: it stays one of these */
  async removeAll(remove: (paths: MountPaths) => Promise<void>): Promise<void> {
    for (const { directory } of this.all) await this.#settle(directory, remove);
  }

  /** Leaves them to the next daemon. */
  async close(): Promise<void> {
    this.#closed.abort();
    await this.#retrying;
  }

  #settle(directory: string, work: (paths: MountPaths) => Promise<void>): Promise<void> {
    return this.#oneByOne(async () => {
      const paths = this.#left.get(directory);
      if (paths === undefined) return;
      await work(paths);
      this.#left.delete(directory);
    });
  }

  /** As long as there are any. Who takes them up tells what fails. */
  async #retry(): Promise<void> {
    const { signal } = this.#closed;
    for (let delayMs = FIRST_RETRY_MS; this.#left.size > 0; delayMs = Math.min(2 * delayMs, MAX_RETRY_MS)) {
      await sleep(delayMs, undefined, { signal }).catch(() => {});
      for (const paths of this.all) {
        if (signal.aborted) return;
        await this.takeUp(paths).catch(() => {});
      }
    }
  }
}

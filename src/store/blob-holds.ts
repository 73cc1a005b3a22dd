import type { Digest } from '../oci/digest.ts';

/** Who holds which blob in this process, so that nobody removes it meanwhile. */
export class BlobHolds {
  readonly #counts = new Map<Digest, number>();
  readonly #removals = new Map<Digest, Promise<unknown>>();

  /**
   * Opens something of a blob that holds it, until `release` is called. If `open` finds nothing or fails, nothing is
   * held.
   */
  async hold<T>(
    digest: Digest,
    open: (release: () => void) => Promise<T | null> | T | null,
  ): Promise<T | null> {
    // Another removal may have begun in the meantime.
    while (this.#removals.has(digest)) await this.#removals.get(digest)?.catch(() => {});
    this.#counts.set(digest, (this.#counts.get(digest) ?? 0) + 1);
    let isHeld = true;
    const release = () => {
      if (isHeld) this.#release(digest);
      isHeld = false;
    };
    try {
      const opened = await open(release);
      if (opened === null) release();
      return opened;
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Runs `remove` unless somebody holds the blob or removes it; who wants to hold it now waits for that. */
  async unlessHeld(digest: Digest, remove: () => Promise<boolean>): Promise<boolean> {
    if (this.#counts.has(digest) || this.#removals.has(digest)) return false;
    const removal = remove();
    this.#removals.set(digest, removal);
    try {
      return await removal;
    } finally {
      this.#removals.delete(digest);
    }
  }

  isHeld(digest: Digest): boolean {
    return this.#counts.has(digest);
  }

  #release(digest: Digest): void {
    const count = this.#counts.get(digest) ?? 0;
    if (count > 1) this.#counts.set(digest, count - 1);
    else this.#counts.delete(digest);
  }
}

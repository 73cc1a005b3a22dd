import type { Digest } from '../oci/digest.ts';
import type { BlobStore } from './blob-store.ts';

/** Local copies of blobs that are kept elsewhere, as many as there is room for: those that were used last. */
export class LocalCopies {
  readonly #store: BlobStore;
  readonly #maxBytes: number;
  /** Least recently used first. */
  readonly #sizes = new Map<Digest, number>();
  #totalBytes = 0;
  #trimming: Promise<void> | null = null;

  private constructor(store: BlobStore, maxBytes: number) {
    this.#store = store;
    this.#maxBytes = maxBytes;
  }

  /** Over what `store` has already, the oldest of which is taken for the least recently used. */
  static async open(store: BlobStore, maxBytes: number): Promise<LocalCopies> {
    const copies = new LocalCopies(store, maxBytes);
    const found = [];
    for await (const blob of store.list()) found.push(blob);
    found.sort((a, b) => a.modifiedAtMs - b.modifiedAtMs);
    for (const { digest, sizeBytes } of found) copies.used(digest, sizeBytes);
    await copies.trim();
    return copies;
  }

  get totalBytes(): number {
    return this.#totalBytes;
  }

  used(digest: Digest, sizeBytes: number): void {
    this.forget(digest);
    this.#sizes.set(digest, sizeBytes);
    this.#totalBytes += sizeBytes;
  }

  forget(digest: Digest): void {
    this.#totalBytes -= this.#sizes.get(digest) ?? 0;
    this.#sizes.delete(digest);
  }

  /** Removes copies until the rest fits, but none that is held. */
  async trim(): Promise<void> {
    if (this.#totalBytes <= this.#maxBytes) return;
    this.#trimming ??= this.#trim().finally(() => {
      this.#trimming = null;
    });
    await this.#trimming;
  }

  async #trim(): Promise<void> {
    for (const digest of [...this.#sizes.keys()]) {
      if (this.#totalBytes <= this.#maxBytes) return;
      const isGone = (await this.#store.remove(digest)) || (await this.#store.stat(digest)) === null;
      if (isGone) this.forget(digest);
    }
  }
}

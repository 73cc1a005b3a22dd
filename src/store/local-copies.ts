import type { Digest } from '../oci/digest.ts';
import type { BlobStore, BlobWriter, ExpectedBlob } from './blob-store.ts';
import { StoreError } from './errors.ts';

/** Room that is made for a blob of which the size is not known. */
const UNKNOWN_BYTES = 64 * 1024 * 1024;

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

  /**
   * Takes a blob into the store. If the disk is full, the copies that were used the longest ago make room for it.
   * Rejects with ERR_STORE_FULL if that is not enough.
   */
  async writer(expected: ExpectedBlob | null): Promise<BlobWriter> {
    try {
      return await this.#store.writer(expected);
    } catch (error) {
      const isFull = error instanceof StoreError && error.code === 'ERR_STORE_FULL';
      const wantedBytes = expected?.sizeBytes ?? Math.min(UNKNOWN_BYTES, this.#totalBytes);
      // For what would not fit anyway nothing has to go.
      if (!isFull || wantedBytes > this.#totalBytes) throw error;
      await this.#removeDownTo(this.#totalBytes - wantedBytes);
      return this.#store.writer(expected);
    }
  }

  /** Removes copies until the rest fits, but none that is held. */
  async trim(): Promise<void> {
    if (this.#totalBytes <= this.#maxBytes) return;
    this.#trimming ??= this.#removeDownTo(this.#maxBytes).finally(() => {
      this.#trimming = null;
    });
    await this.#trimming;
  }

  async #removeDownTo(bytes: number): Promise<void> {
    for (const digest of [...this.#sizes.keys()]) {
      if (this.#totalBytes <= bytes) return;
      const isGone = (await this.#store.remove(digest)) || (await this.#store.stat(digest)) === null;
      if (isGone) this.forget(digest);
    }
  }
}

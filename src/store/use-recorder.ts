import type { Digest } from '../oci/digest.ts';
import type { ListedBlob, StoredBlob } from './blob-store.ts';
import type { BlobTable } from './blob-table.ts';

/** How far the catalog may be behind. */
const FLUSH_MS = 5_000;
/** Not kept in memory for ever while the catalog cannot be written: what is lost is found when the store is listed. */
const MAX_PENDING = 100_000;

/**
 * Gathers which blobs are stored and used, and tells the catalog from time to time: whoever reads a blob does not wait
 * for that.
 */
export class UseRecorder {
  readonly #table: Pick<BlobTable, 'add' | 'use'>;
  readonly #onError: (error: unknown) => void;
  #stored = new Map<Digest, ListedBlob>();
  #used = new Set<Digest>();
  #timer: NodeJS.Timeout | null = null;
  #flushing: Promise<void> = Promise.resolve();

  /** @param onError told why the catalog could not be written; it is tried again */
  constructor(table: Pick<BlobTable, 'add' | 'use'>, onError: (error: unknown) => void) {
    this.#table = table;
    this.#onError = onError;
  }

  stored({ digest, sizeBytes }: StoredBlob): void {
    if (this.#stored.size < MAX_PENDING)
      this.#stored.set(digest, { digest, sizeBytes, modifiedAtMs: Date.now() });
    this.#schedule();
  }

  used(digest: Digest): void {
    if (this.#used.size < MAX_PENDING) this.#used.add(digest);
    this.#schedule();
  }

  /** Tells the catalog now. Rejects with StoreError. */
  flush(): Promise<void> {
    this.#flushing = this.#flushing.catch(() => {}).then(() => this.#write());
    return this.#flushing;
  }

  /** Tells the catalog what it does not know yet. Nothing is recorded afterwards. */
  async close(): Promise<void> {
    await this.#flushAndTell();
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #schedule(): void {
    if (this.#timer !== null) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      void this.#flushAndTell();
    }, FLUSH_MS);
    this.#timer.unref();
  }

  async #flushAndTell(): Promise<void> {
    try {
      await this.flush();
    } catch (error) {
      this.#onError(error);
    }
  }

  async #write(): Promise<void> {
    const stored = this.#stored;
    const used = this.#used;
    if (stored.size === 0 && used.size === 0) return;
    this.#stored = new Map();
    this.#used = new Set();
    try {
      await this.#table.add([...stored.values()]);
      await this.#table.use([...used], Date.now());
    } catch (error) {
      for (const [digest, blob] of stored) if (!this.#stored.has(digest)) this.#stored.set(digest, blob);
      for (const digest of used) this.#used.add(digest);
      this.#schedule();
      throw error;
    }
  }
}

import type { Logger } from 'pino';
import type { Digest } from '../../oci/digest.ts';
import type { BlobStore } from '../../store/blob-store.ts';
import type { BlobRecord } from '../../store/blob-table.ts';
import type { Catalog } from '../../store/catalog.ts';
import { pause } from './garbage-collector.ts';

const LEASE = 'scrubber';
const LEASE_MS = 10 * 60_000;
/** Slow enough to leave the disk to those who wait for it. */
const BYTES_PER_SECOND = 16 * 1024 * 1024;
const IDLE_MS = 60_000;

export interface ScrubberParts {
  readonly store: BlobStore;
  readonly catalog: Catalog;
  /** Takes back what was promised with a blob that is lost. */
  readonly forget: (digest: Digest) => Promise<void>;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Finds blobs that a disk has damaged, and removes them: whoever asks for one next has it fetched or made anew. */
export class Scrubber {
  readonly #parts: ScrubberParts;
  readonly #suspects = new Map<Digest, Promise<void>>();

  constructor(parts: ScrubberParts) {
    this.#parts = parts;
  }

  /** Checks each blob once in `everyMs`, one after the other, until the signal fires; one replica does it. */
  async every(everyMs: () => number | null): Promise<void> {
    const { log, signal } = this.#parts;
    while (!signal.aborted) {
      try {
        const blob = await this.#next(everyMs());
        if (blob !== null) await this.check(blob.digest);
        await pause(blob === null ? IDLE_MS : (1000 * blob.sizeBytes) / BYTES_PER_SECOND, signal);
      } catch (error) {
        if (!signal.aborted) log.error({ err: error }, 'the cache cannot be checked');
        await pause(IDLE_MS, signal);
      }
    }
  }

  async #next(everyMs: number | null): Promise<BlobRecord | null> {
    const { catalog } = this.#parts;
    const nowMs = Date.now();
    if (everyMs === null || !(await catalog.leases.take(LEASE, nowMs + LEASE_MS, nowMs))) return null;
    return catalog.blobs.nextToVerify(nowMs - everyMs);
  }

  /** Has a blob checked that could not be read: once, however many find that. */
  suspect(digest: Digest): void {
    if (this.#suspects.has(digest)) return;
    const { log, signal } = this.#parts;
    const work = this.check(digest)
      .then(() => {})
      .catch((error: unknown) => {
        if (!signal.aborted) log.error({ err: error, digest }, 'a blob cannot be checked');
      })
      .finally(() => this.#suspects.delete(digest));
    this.#suspects.set(digest, work);
  }

  /** Reads a blob; a damaged one is removed, with all that needs it. Rejects with StoreError. */
  async check(digest: Digest): Promise<'intact' | 'damaged' | 'absent'> {
    const { store, catalog, forget, log, signal } = this.#parts;
    const found = await store.verify(digest, signal);
    if (found === 'intact') {
      await catalog.blobs.setVerified(digest, Date.now());
      return found;
    }
    if (found === 'damaged') log.error({ digest }, 'a blob on the disk was damaged: it is removed');
    await forget(digest);
    return found;
  }

  async idle(): Promise<void> {
    await Promise.all(this.#suspects.values());
  }
}

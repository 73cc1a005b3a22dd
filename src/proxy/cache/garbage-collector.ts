import type { Logger } from 'pino';
import type { Digest } from '../../oci/digest.ts';
import type { BlobStore } from '../../store/blob-store.ts';
import type { BlobRecord } from '../../store/blob-table.ts';
import type { Catalog } from '../../store/catalog.ts';
import { isStoreFailure } from '../../store/errors.ts';
import type { UseRecorder } from '../../store/use-recorder.ts';

const LEASE = 'garbage-collection';
/** Renewed while it goes on; so long, nobody takes the work of one who died. */
const LEASE_MS = 60_000;
/** How far below its limit the cache is brought, so that not every blob that comes costs a collection. */
const LOW_WATER = 0.9;
const PAGE = 200;
/** So many blobs that cannot be removed end a run: then it is not they. */
const MAX_FAILURES = 5;
/** A disk that stays full because of others is no reason to try without a pause. */
const URGENT_PAUSE_MS = 5_000;
/** In a report: an operator reads the first ones. */
const MAX_REPORTED = 1000;

/** When what is kept has to go. */
export interface CacheLimits {
  /** Null: as much as fits. */
  readonly maxBytes: number | null;
  /** What was not used for so long is removed, room or not; null for never. */
  readonly maxAgeMs: number | null;
  /** What is to stay free of the file system; 0 where the store is on none. */
  readonly minFreeBytes: number;
  /** What was used so lately may be on its way to somebody, from this replica or another. */
  readonly spareMs: number;
}

export interface CollectionReport {
  /** `busy`: another replica is at it. */
  readonly outcome: 'done' | 'dry-run' | 'busy';
  /** How much was kept before and after; in a dry run, what it would be. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly removedBlobs: number;
  readonly freedBytes: number;
  /** That should have gone, but somebody reads or converts them. */
  readonly heldBlobs: number;
  /** The first of those removed. */
  readonly blobs: readonly BlobRecord[];
}

export interface CollectorParts {
  readonly store: BlobStore;
  readonly catalog: Catalog;
  readonly recorder: UseRecorder;
  readonly limits: () => Promise<CacheLimits> | CacheLimits;
  /** Of the file system with the blobs; null where there is none. */
  readonly freeBytes: () => Promise<number | null>;
  /** Told what a run has freed. */
  readonly onRun: (freedBytes: number) => void;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

interface Goal {
  /** How much has to go for want of room. */
  readonly surplusBytes: number;
  /** What is older goes anyway. */
  readonly usedBeforeMs: number | null;
  readonly spareUsedSinceMs: number;
}

/**
 * Removes what was not used for the longest time when there is too much, and what is too old: never what is held. What
 * the catalog says about it goes first, so that nothing is promised that is gone.
 */
export class GarbageCollector {
  readonly #parts: CollectorParts;
  #running: Promise<CollectionReport> | null = null;
  #urgentMs = Number.NEGATIVE_INFINITY;

  constructor(parts: CollectorParts) {
    this.#parts = parts;
  }

  /**
   * One run, or the one that is under way. Rejects with StoreError.
   * @param options.wantedBytes room that is needed now
   */
  async collect(
    options: { readonly dryRun?: boolean; readonly wantedBytes?: number } = {},
  ): Promise<CollectionReport> {
    if (options.dryRun === true) return this.#collect(true, 0);
    this.#running ??= this.#collect(false, options.wantedBytes ?? 0).finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  /** The store is full: room is made in the background. */
  makeRoom(wantedBytes: number): void {
    const nowMs = performance.now();
    if (nowMs - this.#urgentMs < URGENT_PAUSE_MS) return;
    this.#urgentMs = nowMs;
    void this.#collectAndLog(wantedBytes);
  }

  /** Collects again and again until the signal fires. */
  async every(intervalMs: () => number): Promise<void> {
    const { signal } = this.#parts;
    while (!signal.aborted) {
      await this.#collectAndLog(0);
      await pause(intervalMs(), signal);
    }
    await this.#running?.catch(() => {});
  }

  /**
   * Removes one blob if nobody holds it, and before it all that is promised with it.
   * @returns the bytes that are free again; null if somebody holds it
   */
  async remove(digest: Digest): Promise<number | null> {
    await this.#withdraw(digest);
    return this.#removeBytes(digest);
  }

  /** The store has lost a blob: what was promised with it is taken back. */
  async forget(digest: Digest): Promise<void> {
    await this.#withdraw(digest);
    await this.#parts.catalog.blobs.remove([digest]);
  }

  /** What was made for it alone goes too: from then on nobody finds the rest by it. */
  async #withdraw(digest: Digest): Promise<void> {
    for (const other of await this.#parts.catalog.content.withdraw(digest)) await this.#removeBytes(other);
  }

  async #removeBytes(digest: Digest): Promise<number | null> {
    const { store, catalog } = this.#parts;
    const known = await catalog.blobs.get(digest);
    const isRemoved = await store.remove(digest);
    if (!isRemoved && (await store.stat(digest)) !== null) return null;
    await catalog.blobs.remove([digest]);
    return isRemoved ? (known?.sizeBytes ?? 0) : 0;
  }

  async #collectAndLog(wantedBytes: number): Promise<void> {
    try {
      await this.collect({ wantedBytes });
    } catch (error) {
      if (!this.#parts.signal.aborted)
        this.#parts.log.error({ err: error }, 'the cache cannot be cleaned up');
    }
  }

  async #collect(isDryRun: boolean, wantedBytes: number): Promise<CollectionReport> {
    const { catalog, recorder, log, onRun } = this.#parts;
    await recorder.flush();
    const goal = await this.#goal(wantedBytes);
    const { sizeBytes: bytesBefore } = await catalog.blobs.totals();
    const run = new Run(bytesBefore);
    if (isDryRun) {
      const goesOn = async () => true;
      for await (const blob of this.#candidates(goal, () => run.freedBytes, goesOn))
        run.removed(blob, blob.sizeBytes);
      return run.report('dry-run');
    }
    if (!(await this.#takeLease())) return run.report('busy');
    const startedMs = performance.now();
    let failures = 0;
    try {
      const goesOn = () => this.#takeLease();
      for await (const blob of this.#candidates(goal, () => run.freedBytes, goesOn)) {
        try {
          const freedBytes = await this.remove(blob.digest);
          if (freedBytes === null) run.heldBlobs++;
          else run.removed(blob, freedBytes);
        } catch (error) {
          if (++failures >= MAX_FAILURES || !isStoreFailure(error)) throw error;
          log.error({ err: error, digest: blob.digest }, 'a blob cannot be removed');
        }
      }
      if (run.removedBlobs > 0) await catalog.content.sweep();
    } finally {
      await catalog.leases.release(LEASE);
      onRun(run.freedBytes);
    }
    const { blobs: _, ...report } = run.report('done');
    if (run.removedBlobs > 0 || run.heldBlobs > 0) {
      log.info({ ...report, ms: Math.round(performance.now() - startedMs) }, 'the cache was cleaned up');
    }
    return run.report('done');
  }

  async #goal(askedBytes: number): Promise<Goal> {
    const { catalog, limits, freeBytes } = this.#parts;
    const { maxBytes, maxAgeMs, minFreeBytes, spareMs } = await limits();
    const { sizeBytes } = await catalog.blobs.totals();
    const free = await freeBytes();
    // For what would not fit anyway, as upstreams may announce it, nothing else has to go.
    const mostBytes = Math.min(
      maxBytes ?? Number.POSITIVE_INFINITY,
      free === null ? Number.POSITIVE_INFINITY : free + sizeBytes - minFreeBytes,
    );
    const wantedBytes = askedBytes > mostBytes ? 0 : askedBytes;
    const overLimit =
      maxBytes !== null && sizeBytes + wantedBytes > maxBytes ? sizeBytes - LOW_WATER * maxBytes : 0;
    // A store without a file system that says it is full: a part of what it holds.
    const lacking =
      free !== null ? minFreeBytes + wantedBytes - free : wantedBytes > 0 ? (1 - LOW_WATER) * sizeBytes : 0;
    const nowMs = Date.now();
    return {
      surplusBytes: Math.max(0, overLimit, lacking),
      usedBeforeMs: maxAgeMs === null ? null : nowMs - maxAgeMs,
      spareUsedSinceMs: nowMs - spareMs,
    };
  }

  /** @param goesOn asked between two pages */
  async *#candidates(
    goal: Goal,
    freedBytes: () => number,
    goesOn: () => Promise<boolean>,
  ): AsyncIterable<BlobRecord> {
    const { catalog, signal } = this.#parts;
    for (let after: BlobRecord | null = null; ; ) {
      const page: readonly BlobRecord[] = await catalog.blobs.leastUsed(goal.spareUsedSinceMs, after, PAGE);
      for (const blob of page) {
        signal.throwIfAborted();
        const isOld = goal.usedBeforeMs !== null && blob.usedAtMs < goal.usedBeforeMs;
        if (!isOld && freedBytes() >= goal.surplusBytes) return;
        yield blob;
      }
      after = page.at(-1) ?? null;
      if (after === null || !(await goesOn())) return;
    }
  }

  #takeLease(): Promise<boolean> {
    const nowMs = Date.now();
    return this.#parts.catalog.leases.take(LEASE, nowMs + LEASE_MS, nowMs);
  }
}

class Run {
  readonly #bytesBefore: number;
  readonly #blobs: BlobRecord[] = [];
  removedBlobs = 0;
  heldBlobs = 0;
  freedBytes = 0;

  constructor(bytesBefore: number) {
    this.#bytesBefore = bytesBefore;
  }

  removed(blob: BlobRecord, freedBytes: number): void {
    this.removedBlobs++;
    this.freedBytes += freedBytes;
    if (this.#blobs.length < MAX_REPORTED) this.#blobs.push(blob);
  }

  report(outcome: CollectionReport['outcome']): CollectionReport {
    const { removedBlobs, heldBlobs, freedBytes } = this;
    const bytesBefore = this.#bytesBefore;
    const bytesAfter = bytesBefore - freedBytes;
    return { outcome, bytesBefore, bytesAfter, removedBlobs, freedBytes, heldBlobs, blobs: this.#blobs };
  }
}

/** Resolves after a time, or when the signal fires. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end);
    if (signal.aborted) end();
  });
}

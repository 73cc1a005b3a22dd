import { setImmediate as nextTurn } from 'node:timers/promises';
import { type ChunkTable, chunkLength, verifyChunk } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { ChunkDisk } from './chunk-disk.ts';
import { type BlobUser, fetchWithPeers, VERIFY_BYTES } from './chunk-fetcher.ts';
import { FetchQueue } from './fetch-queue.ts';
import type { ReadActivity } from './read-activity.ts';
import { newReadStats, type ReadStats } from './read-stats.ts';
import type { TableFiles } from './table-files.ts';

/** A chunk that is being got, for all who want it. */
interface Pending {
  readonly coming: ReturnType<typeof Promise.withResolvers<Buffer>>;
  /** Somebody waits for it. */
  isUrgent: boolean;
  /** Settles when the chunk is not pending any more. */
  readonly gone: ReturnType<typeof Promise.withResolvers<void>>;
  /** It has come, and is being put on disk. */
  hasCome: boolean;
}

export interface SharedBlobOptions {
  readonly name: string;
  readonly table: ChunkTable;
  readonly files: TableFiles;
  readonly disk: ChunkDisk;
  readonly activity: ReadActivity;
  readonly timeoutMs: number;
}

/**
 * A remote blob, once for all its users: read by chunks, each got by whoever touches it first and for all who wait
 * for it; verified against the chunk table before anyone sees it; kept on disk. What the disk held from before is
 * verified once by each process.
 */
export class SharedBlob {
  readonly files: TableFiles;
  readonly table: ChunkTable;
  readonly #disk: ChunkDisk;
  readonly #activity: ReadActivity;
  readonly #queue: FetchQueue;
  readonly #pending = new Map<number, Pending>();
  /** What {@link close} waits for. */
  readonly #underway = new Set<Promise<void>>();
  /** Asked in turn, the first one until it fails; the newest comes first, for its credentials are the freshest. */
  readonly #users: BlobUser[] = [];

  constructor({ name, table, files, disk, activity, timeoutMs }: SharedBlobOptions) {
    this.files = files;
    this.table = table;
    this.#disk = disk;
    this.#activity = activity;
    this.#queue = new FetchQueue({
      name,
      chunkSize: table.chunkSize,
      timeoutMs,
      fetch: (first, count, signal, deliver) => this.#fetch(first, count, signal, deliver),
      keep: (index, bytes) => this.#keep(index, bytes),
      sources: () => this.#users.length,
    });
  }

  addUser(user: BlobUser): void {
    this.#users.unshift(user);
  }

  get users(): number {
    return this.#users.length;
  }

  /** How many are left. */
  removeUser(user: BlobUser): number {
    this.#users.splice(this.#users.indexOf(user), 1);
    return this.#users.length;
  }

  /** Ends what is under way. */
  async close(): Promise<void> {
    await this.#queue.close();
    while (this.#underway.size > 0) await Promise.all(this.#underway);
  }

  /** Fills `target`, which is inside the blob. All is written to it that will be, also when it rejects. */
  async fill(offset: number, target: Buffer, stats: ReadStats): Promise<void> {
    const { chunkSize } = this.table;
    const end = offset + target.length;
    const first = Math.floor(offset / chunkSize);
    const last = Math.ceil(end / chunkSize) - 1;
    if (this.files.areVerified(first, last)) return this.#fromDisk(offset, target, stats);
    this.#claim(first, last, stats, true);
    const parts: Promise<void>[] = [];
    for (let at = offset; at < end; ) {
      const index = Math.floor(at / chunkSize);
      const pending = this.#pending.get(index);
      let next = index + 1;
      // Neighbours on disk are read in one go.
      while (pending === undefined && next <= last && !this.#pending.has(next)) next++;
      const partEnd = Math.min(end, next * chunkSize);
      const part = target.subarray(at - offset, partEnd - offset);
      const skip = at - index * chunkSize;
      if (pending === undefined) parts.push(this.#fromDisk(at, part, stats));
      else parts.push(pending.coming.promise.then((bytes) => void bytes.copy(part, 0, skip)));
      at = partEnd;
    }
    for (const result of await this.#activity.during(Promise.allSettled(parts))) {
      if (result.status === 'rejected') throw result.reason;
    }
  }

  /** As {@link fill}, if all is verified and in the kernel's memory; else false. */
  fillNow(offset: number, target: Buffer, stats: ReadStats): boolean {
    const { chunkSize } = this.table;
    const first = Math.floor(offset / chunkSize);
    const last = Math.floor((offset + target.length - 1) / chunkSize);
    if (!this.files.areVerified(first, last) || !this.files.readNow(offset, target)) return false;
    this.#countHits(last - first + 1, target.length, stats);
    return true;
  }

  async #fromDisk(offset: number, part: Buffer, stats: ReadStats): Promise<void> {
    const { chunkSize } = this.table;
    const first = Math.floor(offset / chunkSize);
    const last = Math.ceil((offset + part.length) / chunkSize) - 1;
    try {
      await this.files.read(offset, part);
      this.#countHits(last - first + 1, part.length, stats);
    } catch {
      // The disk lost what it held: from here on as if it had never been there.
      this.files.forget(first, last);
      await this.fill(offset, part, stats);
    }
  }

  /** Makes each chunk of the range verified or pending; the work goes on whether or not a reader waits for it. */
  #claim(first: number, last: number, stats: ReadStats, isUrgent: boolean): void {
    const claimed = new Map<number, Pending>();
    for (let index = first; index <= last; index++) {
      let pending = this.#pending.get(index);
      if (pending === undefined) {
        if (this.files.verified[index] === 1) continue;
        const [coming, gone] = [Promise.withResolvers<Buffer>(), Promise.withResolvers<void>()];
        // Not everything has a reader that would take notice.
        for (const { promise } of [coming, gone]) promise.catch(() => {});
        pending = { coming, gone, isUrgent, hasCome: false };
        this.#pending.set(index, pending);
        claimed.set(index, pending);
      } else if (pending.hasCome) this.#countHits(1, chunkLength(this.files.record, index), stats);
      else if (isUrgent && !pending.isUrgent) {
        pending.isUrgent = true;
        this.#queue.urge(index);
      }
    }
    if (claimed.size > 0) this.#during(this.#obtain(claimed, stats));
  }

  /** Fetches those of the chunks that are not here; nobody waits for them. */
  fetchAhead(first: number, last: number, stats: ReadStats): void {
    for (let index = first; index <= last; index++) {
      if (this.files.lastUse[index] === 0) this.#claim(index, index, stats, false);
    }
  }

  /**
   * Resolves when the chunks are here and right, and the disk has been given them; they are asked for once.
   * @throws SourceError
   */
  async obtain(first: number, last: number, stats: ReadStats): Promise<void> {
    this.#claim(first, last, stats, false);
    const kept: Promise<void>[] = [];
    for (let index = first; index <= last; index++) {
      const pending = this.#pending.get(index);
      if (pending !== undefined) kept.push(pending.gone.promise);
    }
    await Promise.all(kept);
  }

  /** Whether a chunk is here or on its way. */
  hasOrGets(index: number): boolean {
    return this.files.lastUse[index]! > 0 || this.#pending.has(index);
  }

  /**
   * A whole chunk, looked at once more, for another host. What is not here is got as for a read.
   * @throws SourceError; the signal's reason
   */
  async chunk(index: number, signal: AbortSignal): Promise<Buffer> {
    if (this.files.verified[index] === 1) {
      const kept = await this.files.load(index);
      if (kept !== null && verifyChunk(this.table, index, kept)) return kept;
      this.files.forget(index, index);
    }
    this.#claim(index, index, newReadStats(), true);
    const pending = this.#pending.get(index);
    // It came while we looked.
    if (pending === undefined) return this.chunk(index, signal);
    return unlessAborted(pending.coming.promise, signal);
  }

  async #obtain(claimed: ReadonlyMap<number, Pending>, stats: ReadStats): Promise<void> {
    const found = await Promise.all([...claimed.keys()].map((index) => this.#disk.load(this.files, index)));
    let verifiedBytes = 0;
    for (const [index, pending] of claimed) {
      const cached = found.shift()!;
      verifiedBytes += cached?.bytes.length ?? 0;
      if (verifiedBytes > VERIFY_BYTES) {
        verifiedBytes = 0;
        await nextTurn();
      }
      // An earlier request for it was answered after all.
      if (pending.hasCome) continue;
      if (cached !== null && verifyChunk(this.table, index, cached.bytes)) {
        this.#countHits(1, cached.bytes.length, stats);
        pending.coming.resolve(cached.bytes);
        if (cached.isOnDisk) this.files.believe(index);
        else if (this.#disk.mayTakeAgain) {
          // The disk did not take it before.
          this.#during(this.#keep(index, cached.bytes));
          continue;
        }
        pending.gone.resolve();
        this.#pending.delete(index);
        continue;
      }
      if (cached?.isOnDisk) this.#disk.counts.healed++;
      this.#disk.counts.misses++;
      this.#queue.get(index, pending.isUrgent).then(pending.coming.resolve, (error: unknown) => {
        pending.coming.reject(error);
        pending.gone.reject(error);
        if (this.#pending.get(index) === pending) this.#pending.delete(index);
      });
    }
  }

  async #fetch(
    first: number,
    count: number,
    signal: AbortSignal,
    deliver: (index: number, bytes: Buffer) => void,
  ): Promise<number[]> {
    const user = this.#users[0]!;
    try {
      const corrupt = await fetchWithPeers(this.table, first, count, user, signal, deliver);
      if (corrupt.length > 0) this.#passOver(user);
      return corrupt;
    } catch (error) {
      this.#passOver(user);
      throw error;
    }
  }

  #passOver(user: BlobUser): void {
    if (this.#users[0] === user && this.#users.length > 1) this.#users.push(this.#users.shift()!);
  }

  #during(work: Promise<void>): void {
    const ending = work.finally(() => this.#underway.delete(ending));
    this.#underway.add(ending);
  }

  #countHits(chunks: number, bytes: number, stats: ReadStats): void {
    stats.cacheHits += chunks;
    stats.bytesFromCache += bytes;
    this.#disk.counts.hits += chunks;
  }

  /** Readers have their bytes already: the chunk is pending until it is stored, so that others have them too. */
  async #keep(index: number, bytes: Buffer): Promise<void> {
    const pending = this.#pending.get(index);
    if (pending !== undefined) {
      pending.hasCome = true;
      pending.coming.resolve(bytes);
    }
    await this.#disk.store(this.files, index, bytes);
    if (pending === undefined) return;
    pending.gone.resolve();
    if (this.#pending.get(index) === pending) this.#pending.delete(index);
  }
}

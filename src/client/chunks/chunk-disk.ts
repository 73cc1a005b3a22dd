import { readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';
import { type Digest, digestHex, digestOf } from '../../oci/digest.ts';
import { oldestChunks, type Victim } from './oldest-chunks.ts';
import { TableFiles } from './table-files.ts';
import type { TableRecord } from './table-record.ts';
import { tablesIn } from './table-scan.ts';
import { UseClock } from './use-clock.ts';

/** How much of a disk a cache may use. */
export interface CacheBound {
  /** Bytes on disk, of chunks and all that belongs to them. */
  readonly maxBytes: number;
  /** Bytes of the file system that are left to others, whatever `maxBytes` says. */
  readonly minFreeBytes: number;
}

export interface ChunkDiskOptions {
  /** Null for a directory without a bound, which processes share. */
  readonly bound: CacheBound | null;
  /** Told when the disk does not take a chunk; not again while that goes on. */
  readonly onWriteError: (error: unknown) => void;
}

/** What was so far, in chunks. */
export interface CacheCounts {
  /** Found in the cache by a read. */
  hits: number;
  /** Had to be fetched. */
  misses: number;
  /** Dropped to make room. */
  evicted: number;
  /** Found on disk with wrong bytes, and to be fetched again. */
  healed: number;
}

/** Chunks kept in memory because the disk did not take them. */
const MAX_OVERFLOW_BYTES = 32 * 1024 * 1024;
/** A disk that has taken chunks for so long is not the one any more that was told of. */
const QUIET_MS = 60_000;
/** How long a disk that took no chunk is left alone with those that are in memory. */
const REFUSED_AGE_MS = 1_000;
/** What a file system may need to remember one more piece of a sparse file. */
const EXTENT_BLOCK_BYTES = 4096;
/** How long the file system's free space is believed to have changed only by us. */
const FREE_SPACE_AGE_MS = 1_000;

/**
 * The chunks that a directory holds. With a bound it is this process's alone, and the chunks that were used least
 * recently make room for new ones; those that are pinned or being read stay.
 */
export class ChunkDisk {
  readonly directory: string;
  readonly counts: CacheCounts = { hits: 0, misses: 0, evicted: 0, healed: 0 };
  readonly #options: ChunkDiskOptions;
  readonly #clock = new UseClock();
  readonly #tables = new Map<string, TableFiles>();
  readonly #overflow = new LRUCache<string, Buffer>({
    maxSize: MAX_OVERFLOW_BYTES,
    sizeCalculation: (bytes) => Math.max(1, bytes.length),
  });
  /** Making room, and making and removing files, is one thing after the other. */
  readonly #oneByOne = pLimit(1);
  /** For chunks that are being stored. */
  #reservedBytes = 0;
  /** Resolves when the next one of them is. */
  #stored = Promise.withResolvers<void>();
  #victims: Victim[] = [];
  #freeBytes = 0;
  #freeBytesAtMs = Number.NEGATIVE_INFINITY;
  #refusedAtMs = Number.NEGATIVE_INFINITY;
  #failedAtMs = Number.NEGATIVE_INFINITY;
  #isClosed = false;

  private constructor(directory: string, options: ChunkDiskOptions) {
    this.directory = directory;
    this.#options = options;
  }

  /** @param directory exists, and with a bound is locked by the caller */
  static async open(directory: string, options: ChunkDiskOptions): Promise<ChunkDisk> {
    const disk = new ChunkDisk(directory, options);
    if (options.bound !== null) {
      await disk.#takeStock();
      await disk.trim(options.bound.maxBytes);
    }
    return disk;
  }

  /** Bytes on disk. */
  get heldBytes(): number {
    let sum = 0;
    for (const files of this.#tables.values()) sum += files.heldBytes;
    return sum;
  }

  #heldChunks(): number {
    let sum = 0;
    for (const files of this.#tables.values()) sum += files.heldChunks;
    return sum;
  }

  get maxBytes(): number | null {
    return this.#options.bound?.maxBytes ?? null;
  }

  /** All tables that have chunks here, also those that other processes put here. */
  async tables(): Promise<TableFiles[]> {
    if (this.#options.bound !== null) return [...this.#tables.values()];
    return tablesIn(this.directory, this.#clock, { removeOthers: false });
  }

  /** What earlier processes left: their tables, and what they were busy with when they were killed. */
  async #takeStock(): Promise<void> {
    for (const files of await tablesIn(this.directory, this.#clock, { removeOthers: true })) {
      await files.freeUnmarked();
      if (files.heldChunks === 0) await files.remove();
      else this.#tables.set(files.name, files);
    }
  }

  /** The files of a blob by its chunk table's digest, to be given back to {@link release}. */
  openTable(hex: string, record: TableRecord, table: Buffer): Promise<TableFiles> {
    return this.#oneByOne(async () => {
      const files =
        this.#tables.get(hex) ??
        new TableFiles(this.directory, hex, record, this.#clock, this.#options.bound === null);
      this.#tables.set(hex, files);
      files.openers++;
      try {
        await files.open(table);
      } catch (error) {
        // Then its chunks are not kept on disk.
        this.#tell(error);
      }
      return files;
    });
  }

  /** To be called when nothing of it is read or stored any more. What the disk does not do is told, as ever: nobody may wait. */
  release(files: TableFiles): Promise<void> {
    return this.#oneByOne(async () => {
      if (--files.openers > 0) return;
      const isOwned = this.#options.bound !== null;
      const told = (error: unknown) => this.#tell(error);
      if (isOwned) await files.saveUses().catch(told);
      await files.close().catch(told);
      if (isOwned && files.heldChunks > 0) return;
      this.#tables.delete(files.name);
      if (isOwned) await files.remove().catch(told);
    });
  }

  /** The files of a blob that may be closed; in a directory that is shared, only of those that are open. */
  heldTable(digest: Digest): TableFiles | null {
    return this.#tables.get(digestHex(digest)) ?? null;
  }

  /** A whole chunk if it is here, unverified; null if it is not or cannot be read. */
  async load(files: TableFiles, index: number): Promise<{ bytes: Buffer; isOnDisk: boolean } | null> {
    const inMemory = this.#overflow.get(overflowKey(files, index));
    if (inMemory !== undefined) return { bytes: inMemory, isOnDisk: false };
    const bytes = await files.load(index);
    return bytes === null ? null : { bytes, isOnDisk: true };
  }

  /** Keeps a verified chunk: on disk; in memory for a while if that does not take it, or has no room. */
  async store(files: TableFiles, index: number, bytes: Buffer): Promise<void> {
    try {
      const roomBytes = files.record.chunkSize + EXTENT_BLOCK_BYTES;
      if (await this.#reserve(roomBytes)) {
        try {
          await files.store(index, bytes);
        } finally {
          this.#reservedBytes -= roomBytes;
          this.#stored.resolve();
          this.#stored = Promise.withResolvers();
        }
        this.#overflow.delete(overflowKey(files, index));
        return;
      }
    } catch (error) {
      this.#tell(error);
    }
    this.#refusedAtMs = performance.now();
    // A copy: the chunk may be a small part of a large answer.
    this.#overflow.set(overflowKey(files, index), Buffer.from(bytes));
  }

  /** Whether it is worth while to offer a chunk again that the disk did not take. */
  get mayTakeAgain(): boolean {
    return performance.now() - this.#refusedAtMs > REFUSED_AGE_MS;
  }

  async #reserve(bytes: number): Promise<boolean> {
    const { bound } = this.#options;
    if (bound === null) {
      this.#reservedBytes += bytes;
      return true;
    }
    return this.#oneByOne(async () => {
      await this.#lookForSpace(bound.minFreeBytes + bytes);
      while (!(await this.#dropUntil(() => this.#hasRoom(bytes, bound)))) {
        if (this.#reservedBytes === 0) return false;
        // What is being stored may be dropped in its turn.
        await this.#stored.promise;
      }
      this.#reservedBytes += bytes;
      this.#freeBytes -= bytes;
      return true;
    });
  }

  async #lookForSpace(wantedBytes: number): Promise<void> {
    const nowMs = performance.now();
    if (nowMs - this.#freeBytesAtMs < FREE_SPACE_AGE_MS && this.#freeBytes >= wantedBytes) return;
    const { bavail, bsize } = await statfs(this.directory);
    this.#freeBytes = bavail * bsize;
    this.#freeBytesAtMs = nowMs;
  }

  /**
   * Makes room at the cost of blobs that nobody has open; false if that is not enough.
   * @param bytes of chunks that are to be stored next
   */
  makeRoomWithout(bytes: number): Promise<boolean> {
    const { bound } = this.#options;
    if (bound === null) return Promise.resolve(true);
    return this.#oneByOne(async () => {
      await this.#lookForSpace(bound.minFreeBytes + bytes);
      const closed = [...this.#tables.values()].filter(({ openers }) => openers === 0);
      let victims = oldestChunks(closed);
      while (!this.#hasRoom(bytes, bound)) {
        if (victims.length === 0) victims = oldestChunks(closed);
        const victim = victims.shift();
        if (victim === undefined) return false;
        await this.#drop(victim);
      }
      return true;
    });
  }

  #hasRoom(bytes: number, { maxBytes, minFreeBytes }: CacheBound): boolean {
    const usedBytes = this.heldBytes + this.#reservedBytes;
    return usedBytes + bytes <= maxBytes && this.#freeBytes >= minFreeBytes + bytes;
  }

  /** Drops what was used least recently. False if there is not enough that may go. */
  async #dropUntil(isEnough: () => boolean): Promise<boolean> {
    while (!isEnough()) {
      const victim = this.#nextVictim();
      if (victim === null) return false;
      await this.#drop(victim);
    }
    return true;
  }

  #nextVictim(): Victim | null {
    for (let isFresh = false; ; isFresh = true) {
      for (let victim = this.#victims.shift(); victim !== undefined; victim = this.#victims.shift()) {
        const { files, index, lastUse } = victim;
        if (files.lastUse[index] === lastUse && files.mayDrop(index)) return victim;
      }
      if (isFresh) return null;
      this.#victims = oldestChunks(this.#tables.values());
    }
  }

  async #drop({ files, index }: Victim): Promise<void> {
    await files.drop(index);
    this.counts.evicted++;
    this.#freeBytes += files.record.chunkSize;
    if (files.heldChunks > 0 || files.openers > 0) return;
    this.#tables.delete(files.name);
    await files.remove();
  }

  /**
   * Drops what was used least recently until no more than `toBytes` are held, or only what may not go is left.
   * Only with a bound: others may be reading what is in a shared directory.
   */
  async trim(toBytes: number): Promise<void> {
    let isOver = false;
    // What is stored meanwhile makes it no longer.
    for (let left = this.#heldChunks(); left > 0 && !isOver; left--) {
      // Each on its own: blobs that are opened, and chunks that are stored, do not wait for all of them.
      isOver = await this.#oneByOne(async () => {
        const victim = this.#isClosed || this.heldBytes <= toBytes ? null : this.#nextVictim();
        if (victim !== null) await this.#drop(victim);
        return victim === null;
      });
    }
  }

  /** Ends dropping, and waits until nothing is written any more: the next process may have the directory then. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#oneByOne(async () => {});
  }

  /** Writes down when chunks were used, so that a restart, or a crash, does not make all alike. */
  async saveUses(): Promise<void> {
    for (const files of this.#tables.values()) {
      if (!files.usesAreNew && files.pinnedChunks === 0) continue;
      await this.#oneByOne(() => files.saveUses()).catch((error: unknown) => this.#tell(error));
    }
  }

  /** A chunk table that is kept here; null if it is not, or is not what its digest says. */
  chunkTable(digest: Digest): Buffer | null {
    try {
      const bytes = readFileSync(join(this.directory, `${digestHex(digest)}.table`));
      return digestOf(bytes) === digest ? bytes : null;
    } catch {
      return null;
    }
  }

  #tell(error: unknown): void {
    const nowMs = performance.now();
    if (nowMs - this.#failedAtMs > QUIET_MS) this.#options.onWriteError(error);
    this.#failedAtMs = nowMs;
  }
}

function overflowKey(files: TableFiles, index: number): string {
  return `${files.name}/${index}`;
}

import { close, constants, fstat, ftruncate, open, read, rm, write } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { chunkLength } from '../../format/chunk-table.ts';
import { punchHole } from '../../format/fallocate.ts';
import { readCached } from '../../format/read-cached.ts';
import { Counts } from './counts.ts';
import { chunkCount, decodeRecord, encodeRecord, RECORD_BYTES, type TableRecord } from './table-record.ts';
import type { UseClock } from './use-clock.ts';

const openAsync = promisify(open);
const closeAsync = promisify(close);
const readAsync = promisify(read);
const writeAsync = promisify(write);
const truncateAsync = promisify(ftruncate);
const statAsync = promisify(fstat);
const removeAsync = promisify(rm);

/** Of a chunk's mark in `….uses`: when it was last used, in seconds, as a little-endian double; 0: it is not here. */
const MARK_BYTES = 8;
/** Seconds; what is later was not written by us. */
const MAX_TIME = 2 ** 40;
const BLOCK_BYTES = 4096;
/** The unit of `st_blocks`, whatever the file system. */
const STAT_BLOCK_BYTES = 512;
interface Descriptors {
  readonly data: number;
  readonly uses: number;
}

/**
 * One chunk table's blob on disk: `<digest of the table>.data`, a sparse file with the blob's chunks at their
 * offsets; `….uses`, a record and a mark for each chunk; `….table`, the chunk table itself. Says what is there, not
 * whether it is right. A chunk's mark is written after its bytes, and wiped before they are given up. Nothing is
 * synced: what was there before this process is to be verified before it is used.
 */
export class TableFiles {
  /** Hex digits of the table's digest. */
  readonly name: string;
  readonly record: TableRecord;
  /** When each chunk was last used; 0: it is not here. */
  readonly lastUse: Float64Array;
  /** Chunks that this process has seen to be right on disk; empty as long as nobody has opened the files. */
  verified = new Uint8Array(0);
  /** How many blobs have it open. */
  openers = 0;
  /** How many chunks are here. */
  heldChunks = 0;
  /** Bytes on disk of the chunks. */
  dataBytes = 0;
  /** Bytes on disk of all else, at most. */
  readonly overheadBytes: number;
  /** Some uses are not on disk yet. */
  usesAreNew = false;
  readonly #path: string;
  readonly #clock: UseClock;
  /** Other processes may have it open too. */
  readonly #isShared: boolean;
  #descriptors: Descriptors | null = null;
  #marksAreKnown = false;
  readonly #readers = new Counts();
  readonly #pins = new Counts();
  readonly #underway = new Set<Promise<unknown>>();
  readonly #storing = new Counts();
  readonly #leaving = new Map<number, Promise<void>>();

  constructor(directory: string, name: string, record: TableRecord, clock: UseClock, isShared: boolean) {
    this.name = name;
    this.record = record;
    this.#path = join(directory, name);
    this.#clock = clock;
    this.#isShared = isShared;
    const count = chunkCount(record);
    this.lastUse = new Float64Array(count);
    this.overheadBytes = onDisk(TableFiles.usesBytes(record)) + onDisk(24 + 32 * count);
  }

  /** Length of the file of marks. */
  static usesBytes(record: TableRecord): number {
    return RECORD_BYTES + chunkCount(record) * MARK_BYTES;
  }

  get heldBytes(): number {
    return this.dataBytes + this.overheadBytes;
  }

  /** Opens the files, making those that are missing. Another process may be using them: nothing is emptied. */
  async open(table: Buffer): Promise<void> {
    if (this.#descriptors === null) {
      // They need not be those of last time: people empty directories of caches.
      this.verified = new Uint8Array(this.lastUse.length);
      this.#marksAreKnown = false;
      this.#descriptors = await this.#openFiles();
    }
    const { data, uses } = this.#descriptors;
    if (!this.#marksAreKnown) await this.#readMarks(uses);
    // Without it, opening the layer again takes a registry: no reason to do without the chunks.
    await writeFile(`${this.#path}.table`, table, { mode: 0o600 }).catch(() => {});
    await this.#measure(data);
  }

  /** Takes marks and sizes from disk, for files that nobody has open. */
  async inspect(): Promise<void> {
    await this.#withFiles(async ({ data, uses }) => {
      await this.#readMarks(uses);
      await this.#measure(data);
    });
  }

  async #openFiles(): Promise<Descriptors> {
    const flags = constants.O_RDWR | constants.O_CREAT;
    const data = await openAsync(`${this.#path}.data`, flags, 0o600);
    try {
      const uses = await openAsync(`${this.#path}.uses`, flags, 0o600);
      try {
        const bytes = Buffer.alloc(RECORD_BYTES);
        const { bytesRead } = await readAsync(uses, bytes, 0, RECORD_BYTES, 0);
        const found = decodeRecord(bytes.subarray(0, bytesRead));
        const { chunkSize, blobSize } = this.record;
        if (found?.chunkSize !== chunkSize || found.blobSize !== blobSize) {
          // Not ours, or torn: no mark in it means anything.
          if (bytesRead > 0) await truncateAsync(uses, 0);
          await writeAsync(uses, encodeRecord(this.record), 0, RECORD_BYTES, 0);
        }
        await truncateAsync(data, blobSize);
        await truncateAsync(uses, TableFiles.usesBytes(this.record));
        return { data, uses };
      } catch (error) {
        await closeAsync(uses);
        throw error;
      }
    } catch (error) {
      await closeAsync(data);
      throw error;
    }
  }

  async #readMarks(uses: number): Promise<void> {
    const marks = Buffer.from(this.lastUse.buffer);
    const { bytesRead } = await readAsync(uses, marks, 0, marks.length, RECORD_BYTES);
    if (bytesRead !== marks.length) throw new Error(`${this.#path}.uses is too short`);
    this.heldChunks = 0;
    for (let index = 0; index < this.lastUse.length; index++) {
      const time = this.lastUse[index]!;
      if (!(time > 0 && time < MAX_TIME)) this.lastUse[index] = 0;
      else {
        this.heldChunks++;
        this.#clock.follow(time);
      }
    }
    this.#marksAreKnown = true;
  }

  /** A whole chunk if it is here, unverified; null if it is not or cannot be read. */
  async load(index: number): Promise<Buffer | null> {
    try {
      if (!(await this.#has(index))) return null;
      const bytes = Buffer.allocUnsafe(chunkLength(this.record, index));
      await this.read(index * this.record.chunkSize, bytes);
      return bytes;
    } catch {
      return null;
    }
  }

  async #has(index: number): Promise<boolean> {
    if (this.lastUse[index]! > 0) return true;
    if (!this.#isShared || this.#descriptors === null) return false;
    const mark = Buffer.alloc(MARK_BYTES);
    await readAsync(this.#descriptors.uses, mark, 0, MARK_BYTES, RECORD_BYTES + index * MARK_BYTES);
    return mark.readDoubleLE(0) > 0;
  }

  /** Whether chunks, from `first` to `last`, are here and right. */
  areVerified(first: number, last: number): boolean {
    for (let index = first; index <= last; index++) if (this.verified[index] !== 1) return false;
    return true;
  }

  /** Reads bytes of chunks that are here; they count as used. Rejects when they cannot be read. */
  async read(offset: number, target: Buffer): Promise<void> {
    const { chunkSize } = this.record;
    const first = Math.floor(offset / chunkSize);
    const last = Math.ceil((offset + target.length) / chunkSize) - 1;
    const now = this.#clock.now();
    for (let index = first; index <= last; index++) {
      if (this.lastUse[index]! > 0) this.lastUse[index] = now;
      this.#readers.increase(index);
    }
    this.usesAreNew = true;
    try {
      await this.#during(this.#readAll(offset, target));
    } finally {
      for (let index = first; index <= last; index++) this.#readers.decrease(index);
    }
  }

  /** As {@link read}, if the kernel has the bytes in memory; else false. */
  readNow(offset: number, target: Buffer): boolean {
    if (this.#descriptors === null || !readCached(this.#descriptors.data, offset, target)) return false;
    const { chunkSize } = this.record;
    const now = this.#clock.now();
    const end = Math.ceil((offset + target.length) / chunkSize);
    for (let index = Math.floor(offset / chunkSize); index < end; index++) {
      if (this.lastUse[index]! > 0) this.lastUse[index] = now;
    }
    this.usesAreNew = true;
    return true;
  }

  async #readAll(offset: number, target: Buffer): Promise<void> {
    const { data } = this.#opened();
    for (let done = 0; done < target.length; ) {
      const { bytesRead } = await readAsync(data, target, done, target.length - done, offset + done);
      if (bytesRead === 0) throw new Error('the chunk cache file is shorter than its blob');
      done += bytesRead;
    }
  }

  /** Puts a verified chunk on disk: its bytes, then its mark. Rejects if the disk does not take it. */
  async store(index: number, bytes: Buffer): Promise<void> {
    this.#storing.increase(index);
    try {
      await this.#leaving.get(index);
      await this.#during(this.#store(index, bytes));
    } finally {
      this.#storing.decrease(index);
    }
  }

  async #store(index: number, bytes: Buffer): Promise<void> {
    const { data, uses } = this.#opened();
    const now = this.#clock.now();
    try {
      await writeAll(data, bytes, index * this.record.chunkSize);
      const mark = Buffer.alloc(MARK_BYTES);
      mark.writeDoubleLE(now);
      await writeAll(uses, mark, RECORD_BYTES + index * MARK_BYTES);
    } catch (error) {
      // Others may have it whole; alone, what is half there only takes room.
      if (!this.#isShared) {
        this.#unmark(index);
        await this.#punch(data, index, 1).catch(() => {});
      }
      throw error;
    } finally {
      await this.#measure(data);
    }
    if (this.lastUse[index] === 0) this.heldChunks++;
    this.lastUse[index] = now;
    this.verified[index] = 1;
  }

  /** What {@link load} gave of a chunk is right: so is what is on disk, unless it has been dropped meanwhile. */
  believe(index: number): void {
    if (this.#isShared || this.lastUse[index]! > 0) this.verified[index] = 1;
  }

  /** From here on as if chunks had never been here, though their bytes may be. */
  forget(first: number, last: number): void {
    this.verified.fill(0, first, last + 1);
  }

  /** Keeps a chunk from being dropped, until it has been unpinned as often. */
  pin(index: number): void {
    this.#pins.increase(index);
  }

  unpin(index: number): void {
    this.#pins.decrease(index);
  }

  get pinnedChunks(): number {
    return this.#pins.size;
  }

  /** Whether a chunk is here and may be dropped now. */
  mayDrop(index: number): boolean {
    const isUsed = this.#readers.has(index) || this.#storing.has(index);
    return this.lastUse[index]! > 0 && !isUsed && !this.#pins.has(index);
  }

  /** Frees the room of a chunk that {@link mayDrop}. */
  async drop(index: number): Promise<void> {
    this.#unmark(index);
    const dropping = this.#withFiles(async ({ data, uses }) => {
      await writeAll(uses, Buffer.alloc(MARK_BYTES), RECORD_BYTES + index * MARK_BYTES);
      await this.#punch(data, index, 1);
      await this.#measure(data);
    });
    // Who stores it again waits until it is gone.
    this.#leaving.set(
      index,
      dropping.catch(() => {}),
    );
    try {
      await this.#during(dropping);
    } finally {
      this.#leaving.delete(index);
    }
  }

  #unmark(index: number): void {
    if (this.lastUse[index]! > 0) this.heldChunks--;
    this.lastUse[index] = 0;
    if (this.verified.length > 0) this.verified[index] = 0;
  }

  /** Frees what has bytes but no mark: chunks that were being stored or dropped when a process was killed. */
  async freeUnmarked(): Promise<void> {
    const isMarked = (index: number) => this.lastUse[index]! > 0;
    const markedBytes = this.lastUse.reduce(
      (sum, _, index) => sum + (isMarked(index) ? onDisk(chunkLength(this.record, index)) : 0),
      0,
    );
    if (this.dataBytes <= markedBytes) return;
    await this.#withFiles(async ({ data }) => {
      for (let index = 0; index < this.lastUse.length; index++) {
        const first = index;
        while (index < this.lastUse.length && !isMarked(index)) index++;
        if (index > first) await this.#punch(data, first, index - first);
      }
      await this.#measure(data);
    });
  }

  async #punch(data: number, first: number, count: number): Promise<void> {
    const { chunkSize } = this.record;
    await punchHole(data, first * chunkSize, count * chunkSize);
  }

  /** Asks the file system how much the chunks take. */
  async #measure(data: number): Promise<void> {
    this.dataBytes = (await statAsync(data)).blocks * STAT_BLOCK_BYTES;
  }

  /** Writes down when chunks were used, the pinned ones now. Only for who has the files alone. */
  async saveUses(): Promise<void> {
    const now = this.#clock.now();
    for (const index of this.#pins.keys()) if (this.lastUse[index]! > 0) this.lastUse[index] = now;
    this.usesAreNew = false;
    await this.#withFiles(({ uses }) => writeAll(uses, Buffer.from(this.lastUse.buffer), RECORD_BYTES));
  }

  /** Ends reading and storing, once what is under way is done. */
  async close(): Promise<void> {
    const open = this.#descriptors;
    this.#descriptors = null;
    // A number that is closed may be that of another file a moment later.
    await Promise.allSettled(this.#underway);
    if (open !== null) await closeBoth(open);
  }

  /** Removes the files; nobody may have them open. */
  async remove(): Promise<void> {
    for (const ending of ['uses', 'data', 'table'])
      await removeAsync(`${this.#path}.${ending}`, { force: true });
    this.dataBytes = 0;
  }

  #opened(): Descriptors {
    if (this.#descriptors === null) throw new Error('the chunk cache is closed');
    return this.#descriptors;
  }

  /** What {@link close} waits for. */
  async #during<T>(work: Promise<T>): Promise<T> {
    this.#underway.add(work);
    try {
      return await work;
    } finally {
      this.#underway.delete(work);
    }
  }

  async #withFiles<T>(work: (descriptors: Descriptors) => Promise<T>): Promise<T> {
    if (this.#descriptors !== null) return work(this.#descriptors);
    const own = await this.#openFiles();
    try {
      return await work(own);
    } finally {
      await closeBoth(own);
    }
  }
}

async function closeBoth({ data, uses }: Descriptors): Promise<void> {
  await Promise.all([closeAsync(data), closeAsync(uses)]);
}

function onDisk(lengthBytes: number): number {
  return Math.ceil(lengthBytes / BLOCK_BYTES) * BLOCK_BYTES;
}

async function writeAll(fd: number, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await writeAsync(fd, bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

import { close, constants, ftruncate, open, read, write } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type ChunkTable, encodeChunkTable } from '../../format/chunk-table.ts';
import { digestHex, digestOf } from '../../oci/digest.ts';
import { makePrivateDirectory } from '../mount/private-directory.ts';

const openAsync = promisify(open);
const closeAsync = promisify(close);
const readAsync = promisify(read);
const writeAsync = promisify(write);
const truncateAsync = promisify(ftruncate);

const PRESENT = 1;

/** Chunks kept in memory because the disk did not take them. */
const MAX_OVERFLOW_BYTES = 32 * 1024 * 1024;

/**
 * A directory that keeps fetched chunks: for each chunk table a sparse file of the bytes it describes,
 * `<digest of the table>.data`, and a map with one byte a chunk, `….map`. By table and not by blob, so that a
 * table which lies about a blob says nothing about those who have another. A byte and not a bit, so that several
 * processes may fill one file at once without undoing each other's marks. Nothing is synced: whoever reads a
 * chunk that was there before him verifies it first.
 */
export class ChunkCache {
  readonly directory: string;
  readonly #onWriteError: (error: unknown) => void;
  readonly #overflow = new Map<string, Buffer>();
  #overflowBytes = 0;
  #writeErrorTold = false;

  private constructor(directory: string, onWriteError: (error: unknown) => void) {
    this.directory = directory;
    this.#onWriteError = onWriteError;
  }

  /**
   * @throws ClientError ERR_DIRECTORY_UNSAFE
   * @param onWriteError told once when the disk does not take chunks (full, read-only); reading goes on
   */
  static open(directory: string, options: { onWriteError?: (error: unknown) => void } = {}): ChunkCache {
    makePrivateDirectory(directory);
    return new ChunkCache(directory, options.onWriteError ?? (() => {}));
  }

  /** The cached part of the blob that a table describes, to be closed by the caller. Without files if the disk takes none. */
  async blob(table: ChunkTable): Promise<CachedChunks> {
    const name = digestHex(digestOf(encodeChunkTable(table)));
    const path = join(this.directory, name);
    // Made when missing, never emptied: another process may be using them.
    const flags = constants.O_RDWR | constants.O_CREAT;
    const opened: number[] = [];
    try {
      for (const [ending, sizeBytes] of [
        ['data', table.blobSize],
        ['map', chunkCount(table)],
      ] as const) {
        const fd = await openAsync(`${path}.${ending}`, flags, 0o600);
        opened.push(fd);
        await truncateAsync(fd, sizeBytes);
      }
      return new CachedChunks(this, name, table, opened[0]!, opened[1]!);
    } catch (error) {
      await Promise.all(opened.map((fd) => closeAsync(fd)));
      this.#tell(error);
      return new CachedChunks(this, name, table, null, null);
    }
  }

  /** Keeps a chunk in memory that could not be written, and says so the first time. */
  keepInMemory(key: string, bytes: Buffer, error: unknown): void {
    this.#tell(error);
    if (this.#overflow.has(key)) return;
    // A copy: the chunk may be a small part of a large answer.
    this.#overflow.set(key, Buffer.from(bytes));
    this.#overflowBytes += bytes.length;
    for (const [oldest, old] of this.#overflow) {
      if (this.#overflowBytes <= MAX_OVERFLOW_BYTES) break;
      this.#overflow.delete(oldest);
      this.#overflowBytes -= old.length;
    }
  }

  #tell(error: unknown): void {
    if (!this.#writeErrorTold) this.#onWriteError(error);
    this.#writeErrorTold = true;
  }

  fromMemory(key: string): Buffer | null {
    return this.#overflow.get(key) ?? null;
  }
}

/** How many chunks a blob has. */
export function chunkCount(table: ChunkTable): number {
  return Math.ceil(table.blobSize / table.chunkSize);
}

/** Bytes of one chunk: the last one may be short. */
export function chunkLength(table: ChunkTable, index: number): number {
  return Math.min(table.chunkSize, table.blobSize - index * table.chunkSize);
}

/** One blob's chunks on disk. Says what is there, not whether it is right. */
export class CachedChunks {
  readonly #cache: ChunkCache;
  readonly #name: string;
  readonly #table: ChunkTable;
  #data: number | null;
  #map: number | null;

  constructor(cache: ChunkCache, name: string, table: ChunkTable, data: number | null, map: number | null) {
    this.#cache = cache;
    this.#name = name;
    this.#table = table;
    this.#data = data;
    this.#map = map;
  }

  /** A whole chunk if it is here, unverified; null if it is not or cannot be read. */
  async load(index: number): Promise<{ readonly bytes: Buffer; readonly onDisk: boolean } | null> {
    const inMemory = this.#cache.fromMemory(this.#key(index));
    if (inMemory !== null) return { bytes: inMemory, onDisk: false };
    try {
      if (this.#map === null) return null;
      const mark = Buffer.alloc(1);
      await readAsync(this.#map, mark, 0, 1, index);
      if (mark[0] !== PRESENT) return null;
      const bytes = Buffer.allocUnsafe(chunkLength(this.#table, index));
      await this.read(index * this.#table.chunkSize, bytes);
      return { bytes, onDisk: true };
    } catch {
      return null;
    }
  }

  /** Reads bytes of the data file. Rejects when they cannot be read. */
  async read(offset: number, target: Buffer): Promise<void> {
    for (let done = 0; done < target.length; ) {
      if (this.#data === null) throw new Error('the chunk cache is closed');
      const { bytesRead } = await readAsync(this.#data, target, done, target.length - done, offset + done);
      if (bytesRead === 0) throw new Error('the chunk cache file is shorter than its blob');
      done += bytesRead;
    }
  }

  /**
   * Keeps a verified chunk: its bytes, then its mark. True if it is on disk now; false if the disk did not take
   * it and it is kept in memory for a while.
   */
  async store(index: number, bytes: Buffer): Promise<boolean> {
    try {
      for (let done = 0; done < bytes.length; ) {
        const position = index * this.#table.chunkSize + done;
        done += (await this.#write(this.#data, bytes.subarray(done), position)).bytesWritten;
      }
      await this.#write(this.#map, Buffer.of(PRESENT), index);
      return true;
    } catch (error) {
      this.#cache.keepInMemory(this.#key(index), bytes, error);
      return false;
    }
  }

  async close(): Promise<void> {
    const open = [this.#data, this.#map].filter((fd) => fd !== null);
    this.#data = null;
    this.#map = null;
    await Promise.all(open.map((fd) => closeAsync(fd)));
  }

  #key(index: number): string {
    return `${this.#name}/${index}`;
  }

  #write(fd: number | null, bytes: Buffer, position: number): Promise<{ bytesWritten: number }> {
    if (fd === null) throw new Error('the chunk cache is closed');
    return writeAsync(fd, bytes, 0, bytes.length, position);
  }
}

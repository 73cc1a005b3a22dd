import { type ChunkTable, decodeChunkTable, encodeChunkTable } from '../../format/chunk-table.ts';
import { type Digest, digestHex, digestOf, shortDigest } from '../../oci/digest.ts';
import type { Mesh } from '../../p2p/agent/mesh.ts';
import { makePrivateDirectory } from '../mount/private-directory.ts';
import { CachedBlob } from './cached-blob.ts';
import { type CacheBound, type CacheCounts, ChunkDisk } from './chunk-disk.ts';
import type { BlobUser } from './chunk-fetcher.ts';
import { DirectoryLock } from './directory-lock.ts';
import { ReadActivity } from './read-activity.ts';
import { SharedBlob } from './shared-blob.ts';
import type { TableFiles } from './table-files.ts';

export const DEFAULT_READ_TIMEOUT_MS = 60_000;
/** How long a blob that others may be reading here goes on as if it were open, when nobody here has it open. */
const DEFAULT_LINGER_MS = 30_000;
/** What a crash may lose of the knowledge which chunks were used last. */
const SAVE_USES_MS = 60_000;

export interface ChunkCacheOptions {
  /**
   * With a bound the directory is this process's alone. Without one, several processes may fill and read it at
   * once, and nothing is ever dropped: a chunk must not go while another process reads it.
   */
  readonly bound?: CacheBound;
  /** Told when the disk does not take chunks (full, read-only); reading goes on. */
  readonly onWriteError?: (error: unknown) => void;
  /** For how long blobs with peers stay open after their last user. */
  readonly lingerMs?: number;
}

/** Where blobs are read from other hosts. */
export type PeerSource = Pick<Mesh, 'table' | 'open'>;

export interface BlobOptions extends Omit<BlobUser, 'peers'> {
  readonly digest: Digest;
  readonly table: ChunkTable;
  /** How long a chunk may take to come, all attempts together, before reads of it fail. Of a blob that is open
   * already, what its first user said. */
  readonly timeoutMs?: number;
  /** Whose layer it is, for people who look at the cache: `docker.io/library/python`. */
  readonly name?: string;
  /** Asked before `fetch`; null: there are none. */
  readonly mesh?: PeerSource | null;
}

/** What is held of one blob, by one chunk table. */
export interface CachedTable {
  readonly tableDigest: string;
  readonly blobDigest: Digest;
  /** Whose layer it is, by who opened it first; null if nobody said. */
  readonly name: string | null;
  readonly blobBytes: number;
  readonly chunkBytes: number;
  readonly chunks: number;
  readonly heldChunks: number;
  /** On disk, with all that belongs to it. */
  readonly heldBytes: number;
  readonly lastUsed: Date | null;
  readonly isOpen: boolean;
}

export interface CacheFigures extends Readonly<CacheCounts> {
  readonly heldBytes: number;
  /** Null without a bound. */
  readonly maxBytes: number | null;
  readonly openBlobs: number;
}

/**
 * A directory that keeps fetched chunks, by chunk table and not by blob: a table which lies about a blob says
 * nothing about those who have another. Images that share a layer share what is held, fetched and waited for.
 */
export class ChunkCache {
  readonly #disk: ChunkDisk;
  readonly #lock: DirectoryLock;
  readonly #activity = new ReadActivity();
  readonly #open = new Map<string, Promise<SharedBlob>>();
  /** Those of them that are there. */
  readonly #shared = new Map<Digest, SharedBlob>();
  /** Ends each at once. */
  readonly #lingering = new Set<() => Promise<void>>();
  readonly #lingerMs: number;
  readonly #saving: NodeJS.Timeout | undefined;

  private constructor(disk: ChunkDisk, lock: DirectoryLock, isOwned: boolean, lingerMs: number) {
    this.#disk = disk;
    this.#lock = lock;
    this.#lingerMs = lingerMs;
    if (isOwned) this.#saving = setInterval(() => void this.#disk.saveUses(), SAVE_USES_MS).unref();
  }

  /** @throws ClientError ERR_DIRECTORY_UNSAFE, ERR_CACHE_IN_USE; the system's error */
  static async open(directory: string, options: ChunkCacheOptions = {}): Promise<ChunkCache> {
    const { bound = null, onWriteError = () => {}, lingerMs = DEFAULT_LINGER_MS } = options;
    makePrivateDirectory(directory);
    const lock = await DirectoryLock.take(directory, bound === null ? 'shared' : 'alone');
    try {
      const disk = await ChunkDisk.open(directory, { bound, onWriteError });
      return new ChunkCache(disk, lock, bound !== null, lingerMs);
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  /** A chunk table of a layer that was open before: with it and the chunks here, a layer opens without any registry. */
  chunkTable(digest: Digest): ChunkTable | null {
    const bytes = this.#disk.chunkTable(digest);
    return bytes === null ? null : decodeChunkTable(bytes);
  }

  /**
   * A remote blob, to be closed by the caller. The first one who opens it decides how long reads wait; each one's
   * `fetch` is asked when those before it fail.
   */
  async openBlob(options: BlobOptions): Promise<CachedBlob> {
    const { digest, table, fetch, stats, onWrongBytes, mesh = null } = options;
    const bytes = encodeChunkTable(table);
    const tableDigest = digestOf(bytes);
    const name = `blob ${shortDigest(digest)}`;
    for (;;) {
      let opening = this.#open.get(tableDigest);
      if (opening === undefined) {
        opening = this.#share(options, tableDigest, bytes);
        this.#open.set(tableDigest, opening);
      }
      const blob = await opening;
      // Its last user may have closed it meanwhile.
      if (this.#open.get(tableDigest) !== opening) continue;
      const peers = mesh?.open({ blob: digest, table: tableDigest }, table);
      const user = { fetch, stats, ...(onWrongBytes && { onWrongBytes }), ...(peers && { peers }) };
      blob.addUser(user);
      const end = async () => {
        const left = blob.removeUser(user);
        if (left === 0) {
          this.#open.delete(tableDigest);
          this.#shared.delete(tableDigest);
          await blob.close();
        }
        await peers?.close();
        if (left === 0) await this.#disk.release(blob.files);
      };
      const onClose = async () => {
        if (peers === undefined || blob.users > 1) await end();
        else this.#linger(end);
      };
      return new CachedBlob({ name, blob, user, disk: this.#disk, activity: this.#activity, onClose });
    }
  }

  async #share(options: BlobOptions, tableDigest: Digest, tableBytes: Buffer): Promise<SharedBlob> {
    const { digest, table, timeoutMs = DEFAULT_READ_TIMEOUT_MS, name = null } = options;
    const { chunkSize, blobSize } = table;
    const record = { chunkSize, blobSize, blobDigest: digest, name };
    const disk = this.#disk;
    const files = await disk.openTable(digestHex(tableDigest), record, tableBytes);
    const what = `blob ${shortDigest(digest)}`;
    const blob = new SharedBlob({ name: what, table, files, disk, activity: this.#activity, timeoutMs });
    this.#shared.set(tableDigest, blob);
    return blob;
  }

  /** A blob that is open now, for others to read its chunks; null if it is not. */
  shared(tableDigest: Digest): SharedBlob | null {
    return this.#shared.get(tableDigest) ?? null;
  }

  /** What is on disk of a blob, whether or not it is open; null if nothing is known of it. */
  heldFiles(tableDigest: Digest): TableFiles | null {
    return this.#disk.heldTable(tableDigest);
  }

  /** The last user is gone; other hosts may still be reading what it reads. */
  #linger(end: () => Promise<void>): void {
    const stop = () => {
      clearTimeout(timer);
      this.#lingering.delete(stop);
      return end();
    };
    const timer = setTimeout(() => void stop(), this.#lingerMs).unref();
    this.#lingering.add(stop);
  }

  /** What is held, by chunk table; in a directory that is shared also what other processes put there. */
  async list(): Promise<CachedTable[]> {
    return (await this.#disk.tables()).map((files) => {
      const { chunkSize, blobSize, blobDigest, name } = files.record;
      const lastUsedMs = 1000 * files.lastUse.reduce((latest, time) => Math.max(latest, time), 0);
      const tableDigest = `sha256:${files.name}`;
      return {
        ...{ blobDigest, name, tableDigest, blobBytes: blobSize, chunkBytes: chunkSize },
        ...{ chunks: files.lastUse.length, heldChunks: files.heldChunks, heldBytes: files.heldBytes },
        lastUsed: lastUsedMs === 0 ? null : new Date(lastUsedMs),
        isOpen: this.#open.has(tableDigest),
      };
    });
  }

  /**
   * Drops chunks, those first that were used least recently, until no more than `toBytes` are held or only what
   * opened layers need is left. Blobs may be open and in use. Only for a cache with a bound.
   */
  async trim(toBytes: number): Promise<{ readonly freedBytes: number; readonly heldBytes: number }> {
    if (this.#disk.maxBytes === null) throw new Error('what other processes may be reading is not dropped');
    const before = this.#disk.heldBytes;
    await this.#disk.trim(toBytes);
    const { heldBytes } = this.#disk;
    return { freedBytes: before - heldBytes, heldBytes };
  }

  /** For metrics. Bytes are on disk; of a cache without a bound, those of the blobs that are open. */
  get figures(): CacheFigures {
    const { counts, heldBytes, maxBytes } = this.#disk;
    return { ...counts, heldBytes, maxBytes, openBlobs: this.#open.size };
  }

  /** Blobs must be closed before. */
  async close(): Promise<void> {
    clearInterval(this.#saving);
    await Promise.all(Array.from(this.#lingering, (stop) => stop()));
    await this.#disk.close();
    this.#lock.release();
  }
}

import { type ByteSource, checkRange, SourceError } from '../../format/byte-source.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type CompletionOptions, type CompletionResult, completeBlob } from './blob-completion.ts';
import type { ChunkDisk } from './chunk-disk.ts';
import type { BlobUser } from './chunk-fetcher.ts';
import type { ReadActivity } from './read-activity.ts';
import { ReadAhead } from './read-ahead.ts';
import type { SharedBlob } from './shared-blob.ts';

/** At most so much is fetched ahead of reads that walk forward. */
const READ_AHEAD_BYTES = 4 * 1024 * 1024;

export interface CachedBlobOptions {
  /** In errors. */
  readonly name: string;
  readonly blob: SharedBlob;
  readonly user: BlobUser;
  readonly disk: ChunkDisk;
  readonly activity: ReadActivity;
  readonly onClose: () => Promise<void>;
}

/** A remote blob as a {@link ByteSource}, for one of its users. */
export class CachedBlob implements ByteSource {
  readonly size: number;
  readonly #options: CachedBlobOptions;
  readonly #blob: SharedBlob;
  readonly #readAhead: ReadAhead;
  /** Chunks read so far, until {@link keepRead}; null from then on. */
  #read: Set<number> | null = new Set();
  readonly #pinned: number[] = [];
  readonly #closed = new AbortController();
  #closing: Promise<void> | null = null;

  constructor(options: CachedBlobOptions) {
    const { blobSize, chunkSize } = options.blob.files.record;
    this.size = blobSize;
    this.#options = options;
    this.#blob = options.blob;
    this.#readAhead = new ReadAhead(Math.max(1, Math.floor(READ_AHEAD_BYTES / chunkSize)));
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    const { name, user } = this.#options;
    checkRange(name, this.size, offset, target.length);
    signal?.throwIfAborted();
    if (target.length === 0) return;
    const { chunkSize } = this.#blob.files.record;
    const first = Math.floor(offset / chunkSize);
    const last = Math.floor((offset + target.length - 1) / chunkSize);
    const reading = this.#blob.fill(offset, target, user.stats);
    this.#goAhead(first, last);
    if (this.#read !== null) for (let index = first; index <= last; index++) this.#read.add(index);
    await unlessAborted(reading, signal);
    user.stats.bytesRead += target.length;
  }

  /** Verified chunks that the kernel has in memory: a round trip through other threads costs more than the copy. */
  readNow(offset: number, target: Buffer): boolean {
    const { name, user } = this.#options;
    checkRange(name, this.size, offset, target.length);
    if (target.length === 0) return true;
    const { chunkSize } = this.#blob.files.record;
    const first = Math.floor(offset / chunkSize);
    const last = Math.floor((offset + target.length - 1) / chunkSize);
    if (!this.#blob.fillNow(offset, target, user.stats)) return false;
    this.#goAhead(first, last);
    if (this.#read !== null) for (let index = first; index <= last; index++) this.#read.add(index);
    user.stats.bytesRead += target.length;
    return true;
  }

  /** Disks may lose what was right when it was verified. */
  distrust(offset: number, length: number): void {
    const { chunkSize } = this.#blob.files.record;
    this.#blob.files.forget(Math.floor(offset / chunkSize), Math.floor((offset + length - 1) / chunkSize));
  }

  #goAhead(first: number, last: number): void {
    const ahead = this.#readAhead.next(first, last);
    if (ahead === null) return;
    const end = Math.min(ahead.last, this.#blob.files.lastUse.length - 1);
    this.#blob.fetchAhead(ahead.first, end, this.#options.user.stats);
  }

  /**
   * What has been read so far is what opening the layer takes: it stays in the cache as long as this is open.
   */
  keepRead(): void {
    for (const index of this.#read ?? []) {
      this.#blob.files.pin(index);
      this.#pinned.push(index);
    }
    this.#read = null;
  }

  /**
   * Gets the rest of the blob onto the disk in the background, to be independent of whoever it comes from. Ends when
   * the blob is closed, too.
   * @throws SourceError when its source fails: to be begun again later; the signal's reason
   */
  async complete(options: CompletionOptions): Promise<CompletionResult> {
    const signals = [this.#closed.signal, ...(options.signal === undefined ? [] : [options.signal])];
    const { disk, activity, user } = this.#options;
    const parts = { disk, activity, stats: user.stats };
    try {
      return await completeBlob(this.#blob, parts, { ...options, signal: AbortSignal.any(signals) });
    } catch (error) {
      if (this.#closed.signal.aborted) return 'closed';
      throw error;
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#closed.abort(new SourceError('ERR_SOURCE_IO', `${this.#options.name}: it is closed`));
    for (const index of this.#pinned) this.#blob.files.unpin(index);
    await this.#options.onClose();
  }
}

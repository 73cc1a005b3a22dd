import { close, openSync, read } from 'node:fs';
import { promisify } from 'node:util';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Digest } from '../../oci/digest.ts';
import type { RegistryContext } from '../../oci/errors.ts';
import { type FetchBlob, ResumedBody } from '../../oci/resumed-body.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import type { StreamSource } from '../../oci/serving/stream.ts';
import type { BlobStore, BlobWriter, StoredBlob } from '../../store/blob-store.ts';
import { HELD_BACK_BYTES } from './held-back.ts';
import { RecentBytes } from './recent-bytes.ts';

const readFd = promisify(read);
const closeFd = promisify(close);

/** So far behind the download, a reader gets its bytes from memory. */
const RECENT_BYTES = 2 * 1024 * 1024;

export interface DownloadReader extends StreamSource {
  /** As {@link readableTo}, of bytes that may yet turn out to be another blob's: for who verifies the whole itself. */
  arrivedTo(range: ByteRange, signal: AbortSignal): Promise<number>;
  /** To be called once, when the reader is done or gone. */
  leave(): void;
}

/**
 * One download of a blob into the store, for any number of readers. It belongs to none of them: it goes on when
 * they leave.
 */
export class Download {
  /** The size that upstream announces, as soon as it answers. Rejects if it never does. */
  readonly sizeBytes: Promise<number>;
  /** Resolves when all of it has come and is what it should be: readers can have it to its end. */
  readonly verified: Promise<void>;
  /** The blob, whole, verified and stored. */
  readonly finished: Promise<StoredBlob>;
  #arrivedBytes = 0;
  #totalBytes: number | null = null;
  #isVerified = false;
  /** Also those that are not written yet. */
  readonly #recent = new RecentBytes(RECENT_BYTES);
  #fd: number | null = null;
  #readers = 0;
  #isOver = false;
  #progress = Promise.withResolvers<void>();
  readonly #digest: Digest;
  readonly #context: RegistryContext;
  readonly #fetch: FetchBlob;

  /**
   * @param context whom `fetch` asks
   * @param fetch asks upstream for the blob from an offset on, with retries of its own
   */
  constructor(
    digest: Digest,
    store: BlobStore,
    context: RegistryContext,
    fetch: FetchBlob,
    signal: AbortSignal,
  ) {
    this.#digest = digest;
    this.#context = context;
    this.#fetch = fetch;
    const size = Promise.withResolvers<number>();
    this.sizeBytes = size.promise;
    const verification = Promise.withResolvers<void>();
    this.verified = verification.promise;
    const announce = { size: size.resolve, verified: verification.resolve };
    this.finished = this.#run(store, announce, signal);
    for (const { promise, reject } of [size, verification]) {
      this.finished.catch(reject);
      // Nobody may be waiting for it when it fails.
      promise.catch(() => {});
    }
    const end = () => this.#end();
    this.finished.then(end, end);
  }

  /** How far it is; the total is not known before upstream answers. */
  get progress(): { readonly arrivedBytes: number; readonly totalBytes: number | null } {
    return { arrivedBytes: this.#arrivedBytes, totalBytes: this.#totalBytes };
  }

  /** To read along while it goes on. To be called before others hear of its end, and left at the reader's. */
  join(): DownloadReader {
    this.#readers++;
    return {
      readableTo: (range, signal) => this.#readableTo(range, HELD_BACK_BYTES, signal),
      arrivedTo: (range, signal) => this.#readableTo(range, 0, signal),
      read: (offset, target) => this.#read(offset, target),
      leave: () => {
        this.#readers--;
        this.#closeIfUnused();
      },
    };
  }

  async #run(
    store: BlobStore,
    announce: { readonly size: (sizeBytes: number) => void; readonly verified: () => void },
    signal: AbortSignal,
  ): Promise<StoredBlob> {
    const body = await ResumedBody.begin({ start: 0 }, this.#fetch, this.#context, signal);
    let writer: BlobWriter | null = null;
    try {
      this.#totalBytes = body.sizeBytes;
      writer = await this.#begin(store, body.sizeBytes);
      announce.size(body.sizeBytes);
      for await (const batch of body.batches()) await this.#take(batch, writer);
      await writer.verify();
      // Readers need not wait until it is durable.
      this.#isVerified = true;
      announce.verified();
      this.#wake();
      return await writer.commit();
    } finally {
      body.discard();
      await writer?.abort();
    }
  }

  async #take(batch: readonly Buffer[], writer: BlobWriter): Promise<void> {
    const written = writer.write(...batch);
    this.#recent.add(batch);
    this.#arrivedBytes += batch.reduce((sum, piece) => sum + piece.length, 0);
    this.#wake();
    await written;
  }

  async #begin(store: BlobStore, sizeBytes: number): Promise<BlobWriter> {
    const digest = this.#digest;
    const writer = await store.writer({ digest, sizeBytes });
    try {
      this.#fd = openSync(writer.path, 'r');
      return writer;
    } catch (error) {
      await writer.abort();
      throw error;
    }
  }

  #end(): void {
    this.#isOver = true;
    this.#wake();
    this.#closeIfUnused();
  }

  #wake(): void {
    const { resolve } = this.#progress;
    this.#progress = Promise.withResolvers<void>();
    resolve();
  }

  async #readableTo({ start, end }: ByteRange, heldBackBytes: number, signal: AbortSignal): Promise<number> {
    while (true) {
      const limit = this.#isVerified ? end : end - heldBackBytes;
      const readable = Math.min(this.#arrivedBytes, limit);
      if (readable > start) return readable;
      if (this.#isOver && !this.#isVerified) {
        const { sizeBytes } = await this.finished;
        return sizeBytes;
      }
      await unlessAborted(this.#progress.promise, signal);
    }
  }

  async #read(offset: number, target: Buffer): Promise<void> {
    const inFile = Math.max(0, Math.min(target.length, this.#recent.start - offset));
    if (inFile < target.length) this.#recent.copy(offset + inFile, target.subarray(inFile));
    if (inFile > 0) await this.#readFile(offset, target.subarray(0, inFile));
  }

  async #readFile(offset: number, target: Buffer): Promise<void> {
    let done = 0;
    while (done < target.length) {
      if (this.#fd === null) throw new Error(`${this.#digest}: read from a download that is closed`);
      const { bytesRead } = await readFd(this.#fd, target, done, target.length - done, offset + done);
      if (bytesRead === 0) throw new Error(`${this.#digest}: the file ends at ${offset + done}`);
      done += bytesRead;
    }
  }

  #closeIfUnused(): void {
    if (!this.#isOver || this.#readers > 0) return;
    this.#recent.clear();
    if (this.#fd === null) return;
    const fd = this.#fd;
    this.#fd = null;
    closeFd(fd).catch(() => {});
  }
}

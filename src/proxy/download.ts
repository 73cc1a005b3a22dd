import { close, openSync, read } from 'node:fs';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { unlessAborted } from '../format/unless-aborted.ts';
import type { Digest } from '../oci/digest.ts';
import { type RegistryContext, RegistryError } from '../oci/errors.ts';
import { discard } from '../oci/registry-http.ts';
import type { BlobStore, BlobWriter, StoredBlob } from '../store/blob-store.ts';
import { StoreError } from '../store/errors.ts';
import type { ByteRange } from './range.ts';
import type { StreamSource } from './stream.ts';

const readFd = promisify(read);
const closeFd = promisify(close);

/** A running answer from upstream. */
export interface BlobBody {
  /** Of the whole blob. */
  readonly sizeBytes: number;
  /** Where in the blob `body` starts: not where it was asked to, if upstream does not know ranges. */
  readonly offsetBytes: number;
  /** Fails when the connection breaks. */
  readonly body: Readable;
}

export interface DownloadReader extends StreamSource {
  /** To be called once, when the reader is done or gone. */
  leave(): void;
}

type FetchBlob = (offset: number, signal: AbortSignal) => Promise<BlobBody>;

/**
 * The last bytes of an answer, which no reader gets before the digest is verified: so no answer out of a blob that
 * turns out to be another one, whole or part, is ever complete.
 */
export const HELD_BACK_BYTES = 64 * 1024;

/** How often a download that breaks off again and again is taken up, unless it gets on. */
const MAX_RESUMES = 5;
const GETS_ON_BYTES = 1024 * 1024;
const RESUME_DELAY_MS = 100;

/**
 * One download of a blob into the store, for any number of readers. It belongs to none of them: it goes on when
 * they leave.
 */
export class Download {
  /** The size that upstream announces, as soon as it answers. Rejects if it never does. */
  readonly sizeBytes: Promise<number>;
  /** The blob, whole, verified and stored. */
  readonly finished: Promise<StoredBlob>;
  #arrivedBytes = 0;
  #totalBytes: number | null = null;
  #isVerified = false;
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
    this.finished = this.#run(store, size.resolve, signal);
    this.finished.catch(size.reject);
    // Nobody may be waiting for it when it fails.
    size.promise.catch(() => {});
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
      readableTo: (range, signal) => this.#readableTo(range, signal),
      read: (offset, target) => this.#read(offset, target),
      leave: () => {
        this.#readers--;
        this.#closeIfUnused();
      },
    };
  }

  async #run(
    store: BlobStore,
    announce: (sizeBytes: number) => void,
    signal: AbortSignal,
  ): Promise<StoredBlob> {
    let writer: BlobWriter | null = null;
    try {
      for (let resumes = 0; ; resumes++) {
        const before = this.#arrivedBytes;
        const { sizeBytes, offsetBytes, body } = await this.#fetch(before, signal);
        writer ??= await this.#begin(store, sizeBytes).catch((error: unknown) => {
          discard(body);
          throw error;
        });
        this.#totalBytes = sizeBytes;
        announce(sizeBytes);
        const failure = await this.#take(body, offsetBytes, writer);
        if (failure === null || this.#arrivedBytes === sizeBytes) break;
        if (this.#arrivedBytes - before >= GETS_ON_BYTES) resumes = 0;
        if (signal.aborted || resumes === MAX_RESUMES) throw failure;
        await delay(RESUME_DELAY_MS * 2 ** resumes, undefined, { signal });
      }
      const stored = await writer.commit();
      this.#isVerified = true;
      return stored;
    } finally {
      await writer?.abort();
    }
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

  /** Stores what comes. Resolves with what interrupted it, or null at the body's end. */
  async #take(body: Readable, offsetBytes: number, writer: BlobWriter): Promise<RegistryError | null> {
    let skip = this.#arrivedBytes - offsetBytes;
    try {
      for await (const piece of body as AsyncIterable<Buffer>) {
        const fresh = piece.subarray(Math.min(skip, piece.length));
        skip -= piece.length - fresh.length;
        await writer.write(fresh);
        this.#arrivedBytes = writer.bytesWritten;
        this.#wake();
      }
      return null;
    } catch (cause) {
      if (cause instanceof StoreError) throw cause;
      const reason = cause instanceof Error ? cause.message : String(cause);
      const message = `the download broke off: ${reason}`;
      return new RegistryError('ERR_REGISTRY_BODY', this.#context, message, { cause });
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

  async #readableTo({ start, end }: ByteRange, signal: AbortSignal): Promise<number> {
    while (true) {
      const limit = this.#isVerified ? end : end - HELD_BACK_BYTES;
      const readable = Math.min(this.#arrivedBytes, limit);
      if (readable > start) return readable;
      if (this.#isOver) {
        const { sizeBytes } = await this.finished;
        return sizeBytes;
      }
      await unlessAborted(this.#progress.promise, signal);
    }
  }

  async #read(offset: number, target: Buffer): Promise<void> {
    let done = 0;
    while (done < target.length) {
      if (this.#fd === null) throw new Error(`${this.#digest}: read from a download that is closed`);
      const { bytesRead } = await readFd(this.#fd, target, done, target.length - done, offset + done);
      if (bytesRead === 0) throw new Error(`${this.#digest}: the file ends at ${offset + done}`);
      done += bytesRead;
    }
  }

  #closeIfUnused(): void {
    if (!this.#isOver || this.#readers > 0 || this.#fd === null) return;
    const fd = this.#fd;
    this.#fd = null;
    closeFd(fd).catch(() => {});
  }
}

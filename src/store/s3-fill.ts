import { closeSync, openSync, read } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { type ByteSource, SourceError } from '../format/byte-source.ts';
import { type ChunkTable, DEFAULT_CHUNK_BYTES, verifyChunk } from '../format/chunk-table.ts';
import { unlessAborted } from '../format/unless-aborted.ts';
import type { BlobStore, BlobWriter, HeldBlob, StoredBlob } from './blob-store.ts';
import { StoreError } from './errors.ts';
import type { LocalCopies } from './local-copies.ts';
import type { S3Objects } from './s3-objects.ts';

const readFd = promisify(read);

const MAX_FAILURES = 4;
const RETRY_DELAY_MS = 200;

interface FillParts {
  readonly objects: S3Objects;
  readonly key: string;
  readonly blob: StoredBlob;
  /** Lets readers have chunks before all of the blob is there. */
  readonly table: ChunkTable | null;
  readonly local: BlobStore;
  /** What is in it. */
  readonly copies: LocalCopies;
  readonly signal: AbortSignal;
}

/** One blob on its way from S3 into the local store, for any number of readers. */
export class S3Fill implements Pick<ByteSource, 'read'> {
  /** Resolves when the blob is in the local store, verified and held; the caller closes what holds it. */
  readonly finished: Promise<HeldBlob>;
  readonly #parts: FillParts;
  #fd: number | null = null;
  #readableBytes = 0;
  #isOver = false;
  #progress = Promise.withResolvers<void>();

  constructor(parts: FillParts) {
    this.#parts = parts;
    this.finished = this.#run();
    const end = () => {
      this.#isOver = true;
      this.#wake();
    };
    this.finished.then(end, end);
  }

  /** How far it can be read: never to the end before the digest of the whole is verified. */
  get readableBytes(): number {
    return this.#readableBytes;
  }

  /** Waits until the bytes up to `end` are there; rejects if they will not come. */
  async readableTo(end: number, signal?: AbortSignal): Promise<void> {
    while (this.#readableBytes < end) {
      if (this.#isOver) await this.finished;
      await (signal === undefined ? this.#progress.promise : unlessAborted(this.#progress.promise, signal));
    }
  }

  async read(offset: number, target: Buffer): Promise<void> {
    for (let done = 0; done < target.length; ) {
      if (this.#fd === null) throw new SourceError('ERR_SOURCE_IO', `${this.#parts.key}: read after close`);
      const { bytesRead } = await readFd(this.#fd, target, done, target.length - done, offset + done);
      if (bytesRead === 0)
        throw new SourceError('ERR_SOURCE_SHORT', `${this.#parts.key}: its copy ends early`);
      done += bytesRead;
    }
  }

  /** To be called when it is over and nobody reads from it. */
  close(): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }

  async #run(): Promise<HeldBlob> {
    const { blob, local, copies } = this.#parts;
    const writer = await copies.writer(blob);
    try {
      this.#fd = openSync(writer.path, 'r');
      for (let failures = 0; writer.bytesWritten < blob.sizeBytes; ) {
        const before = writer.bytesWritten;
        const failure = await this.#take(writer);
        if (failure === null) continue;
        failures = writer.bytesWritten > before ? 1 : failures + 1;
        if (failures === MAX_FAILURES) throw failure;
        await delay(RETRY_DELAY_MS * 2 ** failures, undefined, { signal: this.#parts.signal });
      }
      await writer.commit();
    } finally {
      await writer.abort();
    }
    const held = await local.hold(blob.digest);
    if (held === null) throw new StoreError('ERR_STORE_IO', `${blob.digest} is gone from ${local.scratch()}`);
    this.#readableBytes = blob.sizeBytes;
    return held;
  }

  /** Writes the chunks that come, from where the writer stands. Resolves with what interrupted it. */
  async #take(writer: BlobWriter): Promise<Error | null> {
    const { objects, key, blob, signal } = this.#parts;
    const stream = await objects.stream(key, writer.bytesWritten, blob.sizeBytes, signal);
    if (stream === null) throw new SourceError('ERR_SOURCE_CORRUPT', `${key} is gone`);
    const stop = () => stream.destroy(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    const chunk = Buffer.allocUnsafe(DEFAULT_CHUNK_BYTES);
    let filled = 0;
    try {
      for await (const piece of stream as AsyncIterable<Buffer>) {
        for (let at = 0; at < piece.length; ) {
          const taken = piece.copy(chunk, filled, at);
          at += taken;
          filled += taken;
          const isLast = writer.bytesWritten + filled >= blob.sizeBytes;
          if (filled < chunk.length && !(isLast && at === piece.length)) continue;
          await this.#keep(chunk.subarray(0, filled), writer);
          filled = 0;
        }
      }
      return writer.bytesWritten < blob.sizeBytes ? shorter(key, writer.bytesWritten) : null;
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof StoreError) throw error;
      return error instanceof Error ? error : new Error(String(error));
    } finally {
      signal.removeEventListener('abort', stop);
      stream.destroy();
    }
  }

  async #keep(chunk: Buffer, writer: BlobWriter): Promise<void> {
    const { table, key, blob } = this.#parts;
    const index = writer.bytesWritten / DEFAULT_CHUNK_BYTES;
    if (table !== null && !verifyChunk(table, index, chunk)) {
      throw new SourceError('ERR_SOURCE_CORRUPT', `${key}: chunk ${index} does not match its digest`);
    }
    await writer.write(chunk);
    if (table === null || writer.bytesWritten === blob.sizeBytes) return;
    this.#readableBytes = writer.bytesWritten;
    this.#wake();
  }

  #wake(): void {
    const { resolve } = this.#progress;
    this.#progress = Promise.withResolvers<void>();
    resolve();
  }
}

function shorter(key: string, sizeBytes: number): SourceError {
  return new SourceError('ERR_SOURCE_SHORT', `${key} ends at ${sizeBytes}`);
}

/** Whether an object is not what it should be, not only out of reach. */
export function isDamage(error: unknown): boolean {
  if (error instanceof SourceError)
    return error.code === 'ERR_SOURCE_CORRUPT' || error.code === 'ERR_SOURCE_SHORT';
  return (
    error instanceof StoreError && (error.code === 'ERR_STORE_DIGEST' || error.code === 'ERR_STORE_SIZE')
  );
}

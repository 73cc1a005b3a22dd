import { hash, randomUUID } from 'node:crypto';
import { unlink } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { type ByteSource, SourceError } from '../../format/byte-source.ts';
import { type ChunkTable, DEFAULT_CHUNK_BYTES } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, Digester, digestAlgorithm, shortDigest } from '../../oci/digest.ts';
import type { ResumedBody } from '../../oci/resumed-body.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import type { StreamSource } from '../../oci/serving/stream.ts';

type News = ReturnType<typeof Promise.withResolvers<void>>;

/**
 * A blob on its way from a proxy into a file, read by any number of clients as it comes. The last byte is readable
 * only when the whole is verified, so that nobody takes a wrong blob for a right one.
 */
export class ArrivingBlob implements StreamSource {
  readonly sizeBytes: number;
  /** The chunks of the verified blob. Rejects when it fails, or is given up. */
  readonly verified: Promise<ChunkTable>;
  readonly #digest: Digest;
  readonly #file: FileHandle;
  readonly #body: ResumedBody;
  readonly #giveUp: AbortController;
  #readableBytes = 0;
  #users = 0;
  #isClosed = false;
  #ended: { readonly failure: unknown } | null = null;
  #news: News = Promise.withResolvers();

  private constructor(digest: Digest, file: FileHandle, body: ResumedBody, giveUp: AbortController) {
    this.#digest = digest;
    this.#file = file;
    this.#body = body;
    this.#giveUp = giveUp;
    this.sizeBytes = body.sizeBytes;
    this.verified = this.#receive();
    this.verified.catch(() => {});
  }

  /**
   * @param directory takes the file, which has no name there
   * @param giveUp ends `body`
   */
  static async begin(
    digest: Digest,
    directory: string,
    body: ResumedBody,
    giveUp: AbortController,
  ): Promise<ArrivingBlob> {
    const path = join(directory, `arriving-${randomUUID()}`);
    const file = await open(path, 'wx+', 0o600);
    // However this process ends, the file goes with it.
    unlink(path, () => {});
    return new ArrivingBlob(digest, file, body, giveUp);
  }

  /**
   * Whoever joins leaves once. False if nobody can join any more: all who read it left before it had arrived, or it
   * was {@link close}d.
   */
  join(): boolean {
    if (this.#giveUp.signal.aborted || this.#isClosed) return false;
    this.#users++;
    return true;
  }

  /** When the last one leaves before it has arrived, it is given up. */
  leave(): void {
    this.#users--;
    this.giveUpIfUnused();
    this.#closeIfUnused();
  }

  /** Given up, if nobody has joined. */
  giveUpIfUnused(): void {
    if (this.#users === 0 && this.#ended === null) {
      this.#giveUp.abort(new Error('nobody reads the blob any more'));
    }
  }

  /** Nobody joins any more, and {@link source} is not read: its bytes go when the last one has left. */
  close(): void {
    this.#isClosed = true;
    this.#closeIfUnused();
  }

  #closeIfUnused(): void {
    if (this.#isClosed && this.#users === 0) this.#file.close().catch(() => {});
  }

  async readableTo({ start }: ByteRange, signal: AbortSignal): Promise<number> {
    while (this.#readableBytes <= start) {
      if (this.#ended !== null) {
        throw new SourceError('ERR_SOURCE_IO', `blob ${shortDigest(this.#digest)} did not arrive`, {
          cause: this.#ended.failure,
        });
      }
      await unlessAborted(this.#news.promise, signal);
    }
    return this.#readableBytes;
  }

  async read(offset: number, target: Buffer): Promise<void> {
    for (let done = 0; done < target.length; ) {
      const { bytesRead } = await this.#file.read(target, done, target.length - done, offset + done);
      if (bytesRead === 0) throw new SourceError('ERR_SOURCE_SHORT', 'the file of an arriving blob is short');
      done += bytesRead;
    }
  }

  /** How many can be read now, from the first on. */
  get arrivedBytes(): number {
    return this.#readableBytes;
  }

  /** Its bytes, once it is verified. Does not own the file. */
  source(): ByteSource {
    return {
      size: this.sizeBytes,
      read: (offset, target) => this.read(offset, target),
      close: async () => {},
    };
  }

  async #receive(): Promise<ChunkTable> {
    const whole = new Digester(digestAlgorithm(this.#digest));
    const chunks = new ChunkDigests();
    let receivedBytes = 0;
    try {
      for await (const batch of this.#body.batches()) {
        let position = receivedBytes;
        for (const piece of batch) {
          whole.update(piece);
          chunks.update(piece);
          receivedBytes += piece.length;
        }
        await writeAll(this.#file, batch, position);
        position = receivedBytes;
        this.#progress(Math.min(receivedBytes, this.sizeBytes - 1));
      }
      const digest = whole.digest();
      if (receivedBytes !== this.sizeBytes || digest !== this.#digest) {
        throw new SourceError('ERR_SOURCE_CORRUPT', `the proxy sent ${digest} for ${this.#digest}`);
      }
      this.#progress(this.sizeBytes);
      return chunks.table(this.sizeBytes);
    } catch (failure) {
      this.#ended = { failure };
      throw failure;
    } finally {
      this.#body.discard();
      this.#ended ??= { failure: null };
      this.#news.resolve();
    }
  }

  #progress(readableBytes: number): void {
    this.#readableBytes = Math.max(this.#readableBytes, readableBytes);
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }
}

async function writeAll(file: FileHandle, batch: readonly Buffer[], position: number): Promise<void> {
  let at = position;
  for (const piece of batch) {
    for (let done = 0; done < piece.length; ) {
      done += (await file.write(piece, done, piece.length - done, at + done)).bytesWritten;
    }
    at += piece.length;
  }
}

/** Makes the chunk table of bytes that come in pieces. */
class ChunkDigests {
  readonly #digests: Buffer[] = [];
  #pieces: Buffer[] = [];
  #bytes = 0;

  update(piece: Buffer): void {
    for (let rest = piece; rest.length > 0; ) {
      const part = rest.subarray(0, DEFAULT_CHUNK_BYTES - this.#bytes);
      this.#pieces.push(part);
      this.#bytes += part.length;
      rest = rest.subarray(part.length);
      if (this.#bytes === DEFAULT_CHUNK_BYTES) this.#finish();
    }
  }

  table(blobSize: number): ChunkTable {
    if (this.#bytes > 0) this.#finish();
    return { chunkSize: DEFAULT_CHUNK_BYTES, blobSize, digests: Buffer.concat(this.#digests) };
  }

  #finish(): void {
    this.#digests.push(hash('sha256', Buffer.concat(this.#pieces), 'buffer'));
    this.#pieces = [];
    this.#bytes = 0;
  }
}

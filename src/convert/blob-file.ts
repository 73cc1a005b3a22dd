import { createHash, hash } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { type ChunkTable, DEFAULT_CHUNK_BYTES } from '../format/chunk-table.ts';
import type { Sink } from '../format/sink.ts';
import { readFully, writeFully } from './file-io.ts';
import type { RingOwner } from './ring-owner.ts';

const READ_BYTES = 1 << 20;

/** A converted layer's blob while it is written, synchronously: for worker threads only. */
export class BlobFile implements Sink {
  readonly #fd: number;
  readonly #chunkSize: number;
  readonly #chunks: RingOwner;
  #chunkFilled = 0;
  readonly #digests: Buffer[] = [];
  #written = 0;

  /**
   * @param chunks has chunks digested and gives them out again in order
   * @throws RangeError for chunks that are longer than those of the ring
   */
  constructor(
    path: string,
    chunkSize: number,
    chunks: (take: (chunk: Buffer, digest: Buffer) => void) => RingOwner,
  ) {
    if (chunkSize > DEFAULT_CHUNK_BYTES) throw new RangeError(`chunks of ${chunkSize} bytes`);
    this.#fd = openSync(path, 'wx+', 0o644);
    this.#chunkSize = chunkSize;
    this.#chunks = chunks((chunk, digest) => {
      writeFully(this.#fd, chunk, this.#written);
      this.#written += chunk.length;
      this.#digests.push(Buffer.from(digest));
    });
  }

  write(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const chunk = this.#chunks.next().subarray(0, this.#chunkSize);
      const taken = bytes.copy(chunk, this.#chunkFilled, at);
      at += taken;
      this.#chunkFilled += taken;
      if (this.#chunkFilled === this.#chunkSize) this.#endChunk();
    }
  }

  /**
   * Puts `head`, known only now, over the first bytes, and reads the blob once more for its own digest, which
   * begins with them.
   */
  finish(head: Buffer): { readonly digest: string; readonly table: ChunkTable } {
    if (head.length > this.#chunkSize) throw new RangeError('what is written over is longer than a chunk');
    if (this.#chunkFilled > 0) this.#endChunk();
    this.#chunks.drain();
    writeFully(this.#fd, head, 0);
    const first = Buffer.allocUnsafe(Math.min(this.#written, this.#chunkSize));
    readFully(this.#fd, first, 0);
    this.#digests[0] = hash('sha256', first, 'buffer');
    const digests = Buffer.concat(this.#digests);
    return {
      digest: `sha256:${this.#digest()}`,
      table: { chunkSize: this.#chunkSize, blobSize: this.#written, digests },
    };
  }

  close(): void {
    closeSync(this.#fd);
  }

  #endChunk(): void {
    this.#chunks.fill(this.#chunkFilled);
    this.#chunkFilled = 0;
  }

  #digest(): string {
    const whole = createHash('sha256');
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (let at = 0; at < this.#written; at += READ_BYTES) {
      const piece = buffer.subarray(0, Math.min(READ_BYTES, this.#written - at));
      readFully(this.#fd, piece, at);
      whole.update(piece);
    }
    return whole.digest('hex');
  }
}

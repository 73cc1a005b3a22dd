import { createHash, type Hash, hash } from 'node:crypto';
import type { ChunkTable } from '../format/chunk-table.ts';
import type { Sink } from '../format/sink.ts';
import { FileSink } from './file-sink.ts';
import { readFully } from './read-fully.ts';

const READ_BYTES = 1 << 20;

/**
 * A converted layer's blob while it is written, synchronously: chunks are digested as they go by. For worker
 * threads only.
 */
export class BlobFile implements Sink {
  readonly #file: FileSink;
  readonly #chunkSize: number;
  readonly #chunkDigests: Buffer[] = [];
  #chunk: Hash = createHash('sha256');
  #chunkFilled = 0;

  constructor(path: string, chunkSize: number) {
    this.#file = new FileSink(path);
    this.#chunkSize = chunkSize;
  }

  write(bytes: Buffer): void {
    this.#file.write(bytes);
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + this.#chunkSize - this.#chunkFilled);
      this.#chunk.update(bytes.subarray(at, end));
      this.#chunkFilled += end - at;
      at = end;
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
    this.#file.patch(0, head);
    const blobSize = this.#file.sizeBytes;
    const first = Buffer.allocUnsafe(Math.min(blobSize, this.#chunkSize));
    readFully(this.#file.fd, first, 0);
    this.#chunkDigests[0] = hash('sha256', first, 'buffer');
    return {
      digest: `sha256:${this.#digest(blobSize)}`,
      table: { chunkSize: this.#chunkSize, blobSize, digests: Buffer.concat(this.#chunkDigests) },
    };
  }

  close(): void {
    this.#file.close();
  }

  #endChunk(): void {
    this.#chunkDigests.push(this.#chunk.digest());
    this.#chunk = createHash('sha256');
    this.#chunkFilled = 0;
  }

  #digest(sizeBytes: number): string {
    const whole = createHash('sha256');
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (let at = 0; at < sizeBytes; at += READ_BYTES) {
      const piece = buffer.subarray(0, Math.min(READ_BYTES, sizeBytes - at));
      readFully(this.#file.fd, piece, at);
      whole.update(piece);
    }
    return whole.digest('hex');
  }
}

import { DEFAULT_CHUNK_BYTES, encodeChunkTable } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Download, DownloadReader } from './download.ts';

/** In one answer. */
const MAX_TOLD = 4096;

/**
 * The chunk table of a blob that is on its way from upstream, chunk by chunk as they come. Before the blob is verified it
 * is a guess: for nodes, which get the blob from each other meanwhile, and verify the whole.
 */
export class ComingTable {
  /** Encoded, when the blob is verified. Rejects if it never is. */
  readonly whole: Promise<Buffer>;
  #sizeBytes: number | null = null;
  readonly #digests: Buffer[] = [];
  #ended: { readonly table: Buffer } | { readonly failure: unknown } | null = null;
  #news = Promise.withResolvers<void>();

  /** @param reader is left at the end */
  constructor(download: Download, reader: DownloadReader, signal: AbortSignal) {
    this.whole = this.#make(download, reader, signal);
    this.whole.then(
      (table) => this.#end({ table }),
      (failure: unknown) => this.#end({ failure }),
    );
  }

  /** Of the blob; null until upstream has answered. */
  get sizeBytes(): number | null {
    return this.#sizeBytes;
  }

  /** SHA-256 of some of the chunks from one on. */
  digestsFrom(index: number): Buffer {
    return Buffer.concat(this.#digests.slice(index, index + MAX_TOLD));
  }

  /**
   * Waits until more than so many chunks are known: null; or all are, and verified: the encoded table.
   * Rejects if the blob does not come; with the signal's reason.
   */
  async beyond(chunks: number, signal: AbortSignal): Promise<Buffer | null> {
    for (;;) {
      if (this.#ended !== null) {
        if ('table' in this.#ended) return this.#ended.table;
        throw this.#ended.failure;
      }
      if (this.#digests.length > chunks) return null;
      await unlessAborted(this.#news.promise, signal);
    }
  }

  async #make(download: Download, reader: DownloadReader, signal: AbortSignal): Promise<Buffer> {
    try {
      const blobSize = await unlessAborted(download.sizeBytes, signal);
      this.#sizeBytes = blobSize;
      const chunk = Buffer.allocUnsafeSlow(Math.min(DEFAULT_CHUNK_BYTES, blobSize));
      for (let start = 0, arrived = 0; start < blobSize; start += chunk.length) {
        const end = Math.min(start + chunk.length, blobSize);
        while (arrived < end) arrived = await reader.arrivedTo({ start: arrived, end: blobSize }, signal);
        const bytes = chunk.subarray(0, end - start);
        await reader.read(start, bytes);
        this.#digests.push(Buffer.from(await crypto.subtle.digest('SHA-256', bytes)));
        this.#wake();
      }
      await unlessAborted(download.verified, signal);
      const digests = Buffer.concat(this.#digests);
      return encodeChunkTable({ chunkSize: DEFAULT_CHUNK_BYTES, blobSize, digests });
    } finally {
      reader.leave();
    }
  }

  #end(ended: { readonly table: Buffer } | { readonly failure: unknown }): void {
    this.#ended = ended;
    this.#wake();
  }

  #wake(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }
}

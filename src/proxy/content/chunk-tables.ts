import { LRUCache } from 'lru-cache';
import type { ByteSource } from '../../format/byte-source.ts';
import { DEFAULT_CHUNK_BYTES, encodeChunkTable } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Digest } from '../../oci/digest.ts';
import { SingleFlight } from '../http/single-flight.ts';
import { ComingTable } from './coming-table.ts';
import type { Download, DownloadReader } from './download.ts';

/** Tables of 512 GiB of blobs. */
const MAX_KEPT_BYTES = 64 * 1024 * 1024;
/** Hashed side by side, by threads of the runtime's pool. */
const CHUNKS_AT_ONCE = 4;

/**
 * Chunk tables of blobs that came from upstream, made of their verified bytes when somebody asks. They are kept in memory: a blob
 * is read once for its table by each process. The same blob has the same table everywhere.
 */
export class ChunkTables {
  readonly #kept = new LRUCache<Digest, Buffer>({
    maxSize: MAX_KEPT_BYTES,
    sizeCalculation: ({ length }) => length,
  });
  readonly #coming = new WeakMap<Download, ComingTable>();
  readonly #making = new SingleFlight<Buffer>();
  readonly #signal: AbortSignal;

  /** @param signal ends what is being made: it belongs to no single caller */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** Of a blob on its way, the same for all who ask. Takes over the reader, which is left in any case. */
  coming(digest: Digest, download: Download, reader: DownloadReader): ComingTable {
    const known = this.#coming.get(download);
    if (known !== undefined) {
      reader.leave();
      return known;
    }
    const coming = new ComingTable(download, reader, this.#signal);
    this.#coming.set(download, coming);
    coming.whole.then(
      (table) => this.#kept.set(digest, table),
      () => {},
    );
    return coming;
  }

  /** The encoded table of a blob. Takes over the source, which is closed in any case. */
  async of(digest: Digest, blob: ByteSource, signal: AbortSignal): Promise<Buffer> {
    let isTaken = false;
    const kept = this.#kept.get(digest);
    const table =
      kept ??
      this.#making.run(digest, async () => {
        isTaken = true;
        return this.#make(digest, blob);
      });
    if (!isTaken) await blob.close();
    return unlessAborted(Promise.resolve(table), signal);
  }

  async #make(digest: Digest, blob: ByteSource): Promise<Buffer> {
    try {
      const table = await chunkTableOf(blob, this.#signal);
      this.#kept.set(digest, table);
      return table;
    } finally {
      await blob.close();
    }
  }
}

async function chunkTableOf(blob: ByteSource, signal: AbortSignal): Promise<Buffer> {
  const pieceBytes = CHUNKS_AT_ONCE * DEFAULT_CHUNK_BYTES;
  const digests: Buffer[] = [];
  for (let offset = 0; offset < blob.size; offset += pieceBytes) {
    const piece = Buffer.allocUnsafeSlow(Math.min(pieceBytes, blob.size - offset));
    await blob.read(offset, piece, signal);
    const hashes: Promise<ArrayBuffer>[] = [];
    for (let at = 0; at < piece.length; at += DEFAULT_CHUNK_BYTES) {
      hashes.push(crypto.subtle.digest('SHA-256', piece.subarray(at, at + DEFAULT_CHUNK_BYTES)));
    }
    digests.push(...(await Promise.all(hashes)).map((hash) => Buffer.from(hash)));
    signal.throwIfAborted();
  }
  return encodeChunkTable({
    chunkSize: DEFAULT_CHUNK_BYTES,
    blobSize: blob.size,
    digests: Buffer.concat(digests),
  });
}

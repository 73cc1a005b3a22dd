import type { ChunkTable } from '../../format/chunk-table.ts';
import { type Digest, shortDigest } from '../../oci/digest.ts';
import type { ChunkHolder, HeldContent } from '../../p2p/agent/chunk-holder.ts';
import type { CachedBlob } from './cached-blob.ts';
import type { ChunkCache } from './chunk-cache.ts';
import { FetchRefusedError } from './chunk-fetcher.ts';
import { newReadStats } from './read-stats.ts';
import type { SharedBlob } from './shared-blob.ts';

export interface PeerChunksOptions {
  readonly cache: ChunkCache;
  /** As for other blobs: a blob is opened for whoever comes first. */
  readonly readTimeoutMs: number;
  /** How long the files of a blob that only others read stay open. */
  readonly idleMs?: number;
}

/** A blob that only others read. */
interface Opened {
  readonly blob: Promise<CachedBlob>;
  readonly close: NodeJS.Timeout;
}

const DEFAULT_IDLE_MS = 10_000;

/**
 * What the chunk cache has for other hosts: of a blob that is open all, since what is missing is got; else what is on
 * disk. Nothing is dropped while it is read for them.
 */
export class PeerChunks implements ChunkHolder {
  readonly #options: PeerChunksOptions;
  readonly #opened = new Map<Digest, Opened>();

  constructor(options: PeerChunksOptions) {
    this.#options = options;
  }

  find(table: Digest): HeldContent | null {
    const { cache } = this.#options;
    const shared = cache.shared(table);
    if (shared !== null) return contentOf(shared);
    const files = cache.heldFiles(table);
    if (files === null || files.heldChunks === 0) return null;
    const held = cache.chunkTable(table);
    if (held === null) return null;
    const { blobDigest: blob } = files.record;
    return {
      blob,
      table: held,
      has: (index) => files.lastUse[index]! > 0,
      chunk: async (index, signal) => {
        await this.#open(table, blob, held);
        const opened = cache.shared(table);
        if (opened === null) throw new FetchRefusedError(`blob ${shortDigest(blob)} is not held any more`);
        return opened.chunk(index, signal);
      },
    };
  }

  async close(): Promise<void> {
    await Promise.all(Array.from(this.#opened.keys(), (table) => this.#close(table)));
  }

  /** Until it has been idle for long. */
  async #open(table: Digest, digest: Digest, decoded: ChunkTable): Promise<void> {
    const { cache, readTimeoutMs, idleMs = DEFAULT_IDLE_MS } = this.#options;
    const opened = this.#opened.get(table);
    const blob =
      opened?.blob ??
      cache.openBlob({
        digest,
        table: decoded,
        timeoutMs: readTimeoutMs,
        stats: newReadStats(),
        fetch: () => Promise.reject(new FetchRefusedError('nobody on this host reads it')),
      });
    clearTimeout(opened?.close);
    const close = setTimeout(() => void this.#close(table), idleMs).unref();
    this.#opened.set(table, { blob, close });
    await blob;
  }

  async #close(table: Digest): Promise<void> {
    const opened = this.#opened.get(table);
    if (opened === undefined) return;
    this.#opened.delete(table);
    clearTimeout(opened.close);
    await (await opened.blob).close();
  }
}

function contentOf(shared: SharedBlob): HeldContent {
  return {
    blob: shared.files.record.blobDigest,
    table: shared.table,
    has: (index) => shared.hasOrGets(index),
    chunk: (index, signal) => shared.chunk(index, signal),
  };
}

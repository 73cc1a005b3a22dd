import { checkRange, SourceError } from '../format/byte-source.ts';
import { type ChunkTable, verifyChunk } from '../format/chunk-table.ts';
import type { HeldBlob, StoredBlob } from './blob-store.ts';
import { isDamage, type S3Fill } from './s3-fill.ts';
import type { S3Objects } from './s3-objects.ts';

/** A reader waits for the fill to come so far; what is farther away it fetches itself. */
const AHEAD_BYTES = 8 * 1024 * 1024;
/** So many pieces are read here and there before all of a blob is fetched; at once if it is read from its start. */
const PIECES_BEFORE_FILL = 8;

interface RemoteParts {
  readonly objects: S3Objects;
  readonly key: string;
  readonly blob: StoredBlob;
  /** Null: nothing can be read before all is there. */
  readonly table: ChunkTable | null;
  readonly startFill: () => S3Fill;
  /** Removes what is damaged, of the object or its table. */
  readonly dropDamaged: () => Promise<void>;
  /** Told when it is of no use any more: nobody has it, and nothing of it is under way. */
  readonly onUnused: () => void;
}

/** A blob in S3 that is not in the local store, shared by all who read it. */
export class S3RemoteBlob {
  readonly #parts: RemoteParts;
  #users = 0;
  #pieces = 0;
  /** The last one; those before have failed. */
  readonly #fills: S3Fill[] = [];
  #isFilling = false;
  #held: HeldBlob | null = null;
  #dropping: Promise<void> | null = null;
  #isClosed = false;

  constructor(parts: RemoteParts) {
    this.#parts = parts;
  }

  get blob(): StoredBlob {
    return this.#parts.blob;
  }

  get hasTable(): boolean {
    return this.#parts.table !== null;
  }

  /** False if it is too late: then it has to be looked up again. Who joins must {@link leave}. */
  join(): boolean {
    if (this.#isClosed) return false;
    this.#users++;
    return true;
  }

  leave(): void {
    this.#users--;
    this.#closeIfUnused();
  }

  /**
   * Resolves when the blob is in the local store, where it stays at least until the caller leaves; to false if it was
   * damaged, and is looked up anew.
   */
  async fetched(): Promise<boolean> {
    try {
      await (this.#isFilling || this.#held !== null ? this.#fills.at(-1)! : this.#fill()).finished;
      return true;
    } catch (error) {
      if (!isDamage(error)) throw error;
      await this.#drop();
      return false;
    }
  }

  /** Resolves when nothing of it is under way. */
  async settled(): Promise<void> {
    await this.#fills.at(-1)?.finished.catch(() => {});
    await this.#dropping?.catch(() => {});
  }

  /** @throws SourceError */
  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    const { key, blob } = this.#parts;
    checkRange(key, blob.sizeBytes, offset, target.length);
    if (target.length === 0) return;
    const isWorthIt = offset === 0 || ++this.#pieces >= PIECES_BEFORE_FILL;
    if (isWorthIt && this.#fills.length === 0) this.#fill();
    const end = offset + target.length;
    const fill = this.#fills.at(-1);
    if (fill !== undefined && end - fill.readableBytes <= AHEAD_BYTES) {
      try {
        await fill.readableTo(end, signal);
        return await fill.read(offset, target);
      } catch {
        signal?.throwIfAborted();
        // There may be no room for it here. If it is damaged, that shows again, or not in this place.
      }
    }
    await this.#readThere(offset, target, signal);
  }

  #fill(): S3Fill {
    const fill = this.#parts.startFill();
    this.#fills.push(fill);
    this.#isFilling = true;
    const keep = (held: HeldBlob) => {
      this.#held = held;
    };
    const drop = async (error: unknown) => {
      if (isDamage(error)) await this.#drop().catch(() => {});
    };
    fill.finished.then(keep, drop).finally(() => {
      this.#isFilling = false;
      this.#closeIfUnused();
    });
    return fill;
  }

  #drop(): Promise<void> {
    this.#dropping ??= this.#parts.dropDamaged();
    return this.#dropping;
  }

  /** Reads whole chunks and checks them. */
  async #readThere(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    const { key, blob, table } = this.#parts;
    if (table === null) throw new SourceError('ERR_SOURCE_IO', `${key}: it cannot be copied here`);
    const { chunkSize } = table;
    const first = Math.floor(offset / chunkSize);
    const start = first * chunkSize;
    const end = Math.min(Math.ceil((offset + target.length) / chunkSize) * chunkSize, blob.sizeBytes);
    for (let attempt = 1; ; attempt++) {
      const bytes = await this.#range(start, end, signal);
      const bad = bytes === null ? first : firstBad(table, first, bytes);
      if (bytes !== null && bad === null) return void bytes.copy(target, 0, offset - start);
      // Once more, since it may have been the network.
      if (attempt === 1) continue;
      await this.#drop();
      throw new SourceError(
        'ERR_SOURCE_CORRUPT',
        `${key}: chunk ${bad} is gone, or not what its digest says`,
      );
    }
  }

  async #range(start: number, end: number, signal?: AbortSignal): Promise<Buffer | null> {
    const { objects, key } = this.#parts;
    try {
      return await objects.range(key, start, end, signal);
    } catch (cause) {
      signal?.throwIfAborted();
      throw new SourceError('ERR_SOURCE_IO', cause instanceof Error ? cause.message : key, { cause });
    }
  }

  #closeIfUnused(): void {
    if (this.#users > 0 || this.#isFilling || this.#isClosed) return;
    this.#isClosed = true;
    for (const fill of this.#fills) fill.close();
    void this.#held?.close();
    this.#parts.onUnused();
  }
}

function firstBad(table: ChunkTable, first: number, bytes: Buffer): number | null {
  const { chunkSize } = table;
  for (let at = 0; at < bytes.length; at += chunkSize) {
    const index = first + at / chunkSize;
    if (!verifyChunk(table, index, bytes.subarray(at, at + chunkSize))) return index;
  }
  return null;
}

import { type ByteSource, SourceError } from '../../format/byte-source.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import type { StreamSource } from '../../oci/serving/stream.ts';

/** Read at once, and how many of these are under way: a round trip each, so that some must overlap. */
const BLOCK_BYTES = 1024 * 1024;
const BLOCKS = 4;
/** Of a reader that gets nothing of the memory that all share: so it goes on, if slowly. */
const SMALL_BLOCK_BYTES = 256 * 1024;

/** What all readers together may hold: one whose client takes nothing holds its blocks for minutes. */
export class ReadAheadMemory {
  #freeBytes: number;

  constructor(sizeBytes: number) {
    this.#freeBytes = sizeBytes;
  }

  /** False if there is not so much left. */
  take(sizeBytes: number): boolean {
    if (sizeBytes > this.#freeBytes) return false;
    this.#freeBytes -= sizeBytes;
    return true;
  }

  giveBack(sizeBytes: number): void {
    this.#freeBytes += sizeBytes;
  }
}

interface Block {
  readonly start: number;
  readonly bytes: Buffer;
  readonly done: Promise<void>;
  readonly isShared: boolean;
}

/** Reads a source in order, some blocks ahead of its reader. */
export class ReadAhead implements StreamSource {
  readonly #source: ByteSource;
  readonly #memory: ReadAheadMemory;
  readonly #signal: AbortSignal;
  #blocks: Block[] = [];

  /** @param signal ends reading */
  constructor(source: ByteSource, memory: ReadAheadMemory, signal: AbortSignal) {
    this.#source = source;
    this.#memory = memory;
    this.#signal = signal;
  }

  async readableTo({ start, end }: ByteRange, signal: AbortSignal): Promise<number> {
    this.#drop((block) => block.start + block.bytes.length <= start);
    const last = this.#blocks.at(-1);
    let next = last === undefined ? start : last.start + last.bytes.length;
    while (next < end && this.#blocks.length < BLOCKS) {
      const block = this.#begin(next, end);
      if (block === null) break;
      this.#blocks.push(block);
      next += block.bytes.length;
    }
    const first = this.#blocks[0];
    if (first === undefined) return start;
    await unlessAborted(first.done, signal);
    return first.start + first.bytes.length;
  }

  /** Of what was said to be readable. */
  async read(offset: number, target: Buffer): Promise<void> {
    const block = this.#blocks.find(({ start, bytes }) => start <= offset && offset < start + bytes.length);
    if (block === undefined || offset + target.length > block.start + block.bytes.length) {
      throw new SourceError('ERR_SOURCE_RANGE', `${target.length} bytes at ${offset} were not read ahead`);
    }
    await block.done;
    block.bytes.copy(target, 0, offset - block.start);
  }

  /** Nothing is read any more. Does not close the source. */
  close(): void {
    this.#drop(() => true);
  }

  /** Null for a further one that there is no memory for. */
  #begin(start: number, end: number): Block | null {
    const wanted = Math.min(BLOCK_BYTES, end - start);
    const isShared = this.#memory.take(wanted);
    if (!isShared && this.#blocks.length > 0) return null;
    const bytes = Buffer.allocUnsafeSlow(isShared ? wanted : Math.min(SMALL_BLOCK_BYTES, wanted));
    const done = this.#source.read(start, bytes, this.#signal);
    // Awaited when its turn comes; a failure before that must not count as unhandled.
    done.catch(() => {});
    return { start, bytes, done, isShared };
  }

  #drop(isDone: (block: Block) => boolean): void {
    const kept: Block[] = [];
    for (const block of this.#blocks) {
      if (!isDone(block)) kept.push(block);
      else if (block.isShared) this.#memory.giveBack(block.bytes.length);
    }
    this.#blocks = kept;
  }
}

import { type ByteSource, SourceError } from '../../format/byte-source.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import type { StreamSource } from '../../oci/serving/stream.ts';

/** Read at once, and how many of these are under way: a round trip each, so that some must overlap. */
const BLOCK_BYTES = 1024 * 1024;
const BLOCKS = 4;

interface Block {
  readonly start: number;
  readonly bytes: Buffer;
  readonly done: Promise<void>;
}

/** Reads a source in order, some blocks ahead of its reader. */
export class ReadAhead implements StreamSource {
  readonly #source: ByteSource;
  readonly #signal: AbortSignal;
  #blocks: Block[] = [];

  /** @param signal ends reading */
  constructor(source: ByteSource, signal: AbortSignal) {
    this.#source = source;
    this.#signal = signal;
  }

  async readableTo({ start, end }: ByteRange, signal: AbortSignal): Promise<number> {
    this.#blocks = this.#blocks.filter((block) =>
      block.start <= start && start < block.start + block.bytes.length ? true : block.start > start,
    );
    const last = this.#blocks.at(-1);
    let next = last === undefined ? start : last.start + last.bytes.length;
    while (next < end && this.#blocks.length < BLOCKS) {
      const bytes = Buffer.allocUnsafe(Math.min(BLOCK_BYTES, end - next));
      const done = this.#source.read(next, bytes, this.#signal);
      // Awaited when its turn comes; a failure before that must not count as unhandled.
      done.catch(() => {});
      this.#blocks.push({ start: next, bytes, done });
      next += bytes.length;
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
}

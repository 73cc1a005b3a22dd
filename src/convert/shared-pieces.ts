import type { BlockOptions, PieceCompressor, TakeBlocks } from '../format/zfile-blocks.ts';
import type { Bell } from './bell.ts';
import { type PieceArea, SLOTS } from './piece-area.ts';

/** The number of an owner among those who compress pieces of its area. */
const OWNER = 0;

/**
 * Has the pieces of a ZFile compressed by all threads that have nothing else to do. This thread helps when it
 * would have to wait otherwise.
 */
export class SharedPieces implements PieceCompressor {
  readonly #area: PieceArea;
  readonly #bell: Bell;
  readonly #take: TakeBlocks;
  /** Numbers of the piece that is needed first, and of the one to be filled next. */
  #oldest = 0;
  #next = 0;

  constructor(area: PieceArea, bell: Bell, options: BlockOptions, take: TakeBlocks) {
    this.#area = area;
    this.#bell = bell;
    this.#take = take;
    area.begin(options);
  }

  next(): Buffer {
    while (this.#next - this.#oldest >= SLOTS) this.#takeOldest();
    return this.#area.input(this.#next);
  }

  compress(length: number): void {
    this.#area.fill(this.#next, length);
    this.#next++;
    this.#bell.ring();
  }

  drain(): void {
    while (this.#oldest < this.#next) this.#takeOldest();
  }

  #takeOldest(): void {
    for (let result = this.#area.result(this.#oldest); ; result = this.#area.result(this.#oldest)) {
      if (result !== null) {
        this.#take(result.bytes, result.lengths);
        break;
      }
      if (!this.#area.compressOne(OWNER)) this.#area.waitFor(this.#oldest);
    }
    this.#oldest++;
    this.#area.free(this.#oldest - 1, this.#oldest);
  }
}

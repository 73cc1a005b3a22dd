/** The last bytes of what comes in, piece by piece, as they came. */
export class RecentBytes {
  readonly #maxBytes: number;
  readonly #pieces: Buffer[] = [];
  #start = 0;
  #end = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** From where on they are here. */
  get start(): number {
    return this.#start;
  }

  /** The latest are here, however many they are; of those before, as many as fit beside them. */
  add(pieces: readonly Buffer[]): void {
    const added = pieces.reduce((sum, piece) => sum + piece.length, 0);
    const kept = Math.max(0, this.#maxBytes - added);
    while (this.#end - this.#start > kept) this.#start += this.#pieces.shift()?.length ?? 0;
    this.#pieces.push(...pieces);
    this.#end += added;
  }

  clear(): void {
    this.#pieces.length = 0;
    this.#start = this.#end;
  }

  /** Fills `target` from `offset`: between {@link start} and the end of what came. */
  copy(offset: number, target: Buffer): void {
    let position = this.#start;
    let done = 0;
    for (const piece of this.#pieces) {
      if (done === target.length) return;
      const skip = offset + done - position;
      if (skip < piece.length) done += piece.copy(target, done, skip);
      position += piece.length;
    }
  }
}

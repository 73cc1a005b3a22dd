/** Walks forward that are followed at once: programs read several files, and the kernel mixes their reads. */
const MAX_WALKS = 6;
/** Steps to the next chunk until a walk is taken for one: reads that jump hit a neighbour by chance. */
const STEPS_TO_BELIEVE = 3;

interface Walk {
  /** The last chunk that was read. */
  last: number;
  /** Steps to a neighbour so far. */
  steps: number;
  /** The last chunk that was fetched ahead. */
  ahead: number;
}

/**
 * Says which chunks to fetch ahead of reads that walk forward: the further they have walked the more, up to a bound.
 * Reads that jump cause nothing.
 */
export class ReadAhead {
  readonly #maxChunks: number;
  /** The one that went on last at the end. */
  readonly #walks: Walk[] = [];

  constructor(maxChunks: number) {
    this.#maxChunks = maxChunks;
  }

  /** Takes note of a read of chunks `first` to `last`; what is to be fetched now, both ends included, or null. */
  next(first: number, last: number): { readonly first: number; readonly last: number } | null {
    const at = this.#walks.findIndex((walk) => first === walk.last || first === walk.last + 1);
    if (at === -1) {
      this.#walks.push({ last, steps: 0, ahead: last });
      if (this.#walks.length > MAX_WALKS) this.#walks.shift();
      return null;
    }
    const [walk] = this.#walks.splice(at, 1) as [Walk];
    this.#walks.push(walk);
    if (last === walk.last) return null;
    walk.last = last;
    walk.steps++;
    if (walk.steps < STEPS_TO_BELIEVE) return null;
    const chunks = Math.min(this.#maxChunks, 2 ** Math.min(30, walk.steps - STEPS_TO_BELIEVE));
    const from = Math.max(walk.ahead, last) + 1;
    const to = last + chunks;
    // Not chunk by chunk: one request for half of what is to be ahead.
    if (to - from + 1 < chunks / 2) return null;
    walk.ahead = to;
    return { first: from, last: to };
  }
}

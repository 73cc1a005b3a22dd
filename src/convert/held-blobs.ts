import type { HeldBlob } from '../store/blob-store.ts';

/** Blobs that must stay where they are until something is over. */
export class HeldBlobs {
  readonly #held: HeldBlob[] = [];
  #isOver = false;

  /** Takes over what `holding` gives: one that comes too late is let go at once. */
  async add<T extends HeldBlob | null>(holding: Promise<T>): Promise<T> {
    const held = await holding;
    if (held === null) return held;
    if (this.#isOver) await held.close();
    else this.#held.push(held);
    return held;
  }

  async close(): Promise<void> {
    this.#isOver = true;
    for (const held of this.#held.splice(0)) await held.close();
  }
}

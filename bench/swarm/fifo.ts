const MIN_GARBAGE = 1_024;

/** First in, first out, also when tens of thousands are in it. */
export class Fifo<T> {
  #items: T[] = [];
  #first = 0;

  push(item: T): void {
    this.#items.push(item);
  }

  /** Null of an empty one. */
  shift(): T | null {
    if (this.#first === this.#items.length) return null;
    const item = this.#items[this.#first++]!;
    if (this.#first >= MIN_GARBAGE && 2 * this.#first >= this.#items.length) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return item;
  }
}

/** How often each of some numbers is held; those that are not held take no room. */
export class Counts {
  readonly #counts = new Map<number, number>();

  /** How many are held at all. */
  get size(): number {
    return this.#counts.size;
  }

  has(key: number): boolean {
    return this.#counts.has(key);
  }

  keys(): Iterable<number> {
    return this.#counts.keys();
  }

  increase(key: number): void {
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
  }

  decrease(key: number): void {
    const count = this.#counts.get(key) ?? 0;
    if (count > 1) this.#counts.set(key, count - 1);
    else this.#counts.delete(key);
  }
}

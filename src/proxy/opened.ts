/** What has to be closed, the last one first. */
export class Opened {
  readonly #closers: (() => unknown)[] = [];

  /** `close` is called once; the others wait for it. */
  add(close: () => unknown): void {
    this.#closers.push(close);
  }

  /** One that fails does not keep the others from being closed. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (const close of this.#closers.splice(0).reverse()) {
      try {
        await close();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length === 1) throw failures[0];
    if (failures.length > 1) throw new AggregateError(failures, 'not all of the proxy could be closed');
  }
}

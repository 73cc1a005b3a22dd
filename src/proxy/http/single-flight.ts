/** Work in progress by key: who asks for what is being done gets the same result. */
export class SingleFlight<T> {
  readonly #running = new Map<string, Promise<T>>();

  /** `work` must not depend on the caller's life: it goes on for the others when one leaves. */
  run(key: string, work: () => Promise<T>): Promise<T> {
    const running = this.#running.get(key);
    if (running !== undefined) return running;
    const promise = work().finally(() => this.#running.delete(key));
    this.#running.set(key, promise);
    return promise;
  }
}

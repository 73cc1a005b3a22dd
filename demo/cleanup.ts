/** What was opened and must be closed again, newest first, whatever happens in between. */
export class CleanupStack {
  readonly #undo: { what: string; undo: () => Promise<void> }[] = [];

  /**
   * Registers how to undo what was just done.
   * @param what said in the error when undoing fails, e.g. 'stop the registry'
   */
  defer(what: string, undo: () => Promise<void>): void {
    this.#undo.push({ what, undo });
  }

  /** Undoes everything, newest first. One that fails does not keep the others from being tried. */
  async close(): Promise<void> {
    const failures: Error[] = [];
    for (let entry = this.#undo.pop(); entry !== undefined; entry = this.#undo.pop()) {
      try {
        await entry.undo();
      } catch (cause) {
        failures.push(new Error(`could not ${entry.what}: ${String(cause)}`, { cause }));
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, failures.map((f) => f.message).join('; '));
  }
}

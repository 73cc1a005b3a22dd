/** One content in this host's view: what the mesh has of it. */
export interface MeshBlob {
  /**
   * Gets what it can of neighbouring chunks from other hosts, within the budget; `deliver` gets each chunk once, in any
   * order, and only if it matches the table. Resolves to the indexes that did not come, in order: they are to be read
   * from the proxies. At the top of the tree, or without a place in it, that is all of them, at once.
   * Rejects only with the signal's reason.
   */
  fetchRun(
    first: number,
    count: number,
    signal: AbortSignal,
    deliver: (index: number, bytes: Buffer) => void,
  ): Promise<number[]>;
  /** To be told what the proxies sent of it: for the picture of the tree. `latencyMs` is until the first byte. */
  countProxy(bytes: number, latencyMs: number): void;
  /** The last one who closes a content leaves its tree, after a while. */
  close(): Promise<void>;
}

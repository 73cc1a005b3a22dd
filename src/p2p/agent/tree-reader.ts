import { chunkLength } from '../../format/chunk-table.ts';
import type { MeshBlob } from './mesh-blob.ts';
import { PeerRun, type RunParts } from './peer-run.ts';
import type { Seat } from './seat.ts';

export interface ReaderParts extends Omit<RunParts, 'seat' | 'edges'> {
  readonly seat: Seat;
  readonly onClose: () => void;
}

/** One user's opening of a content: reads from the tree that the host has a seat in. */
export class TreeReader implements MeshBlob {
  readonly #parts: ReaderParts;
  readonly #closed = new AbortController();

  constructor(parts: ReaderParts) {
    this.#parts = parts;
  }

  async fetchRun(
    first: number,
    count: number,
    signal: AbortSignal,
    deliver: (index: number, bytes: Buffer) => void,
  ): Promise<number[]> {
    signal.throwIfAborted();
    const { seat, table, counters, budgets } = this.#parts;
    const place = await seat.arrival(signal, budgets.joinMs);
    if (place === null) counters.missedChunks += count;
    if (this.#closed.signal.aborted || place === null || place.parent === null) {
      return Array.from({ length: count }, (_, at) => first + at);
    }
    const run = new PeerRun({ ...this.#parts, edges: seat.edges }, first, count, (index, bytes) => {
      seat.meshBytes += chunkLength(table, index);
      deliver(index, bytes);
    });
    const missing = await run.get(signal);
    counters.missedChunks += missing.length;
    return missing;
  }

  countProxy(bytes: number, latencyMs: number): void {
    const { seat, counters } = this.#parts;
    seat.edges.count(null, bytes, latencyMs);
    seat.proxyBytes += bytes;
    counters.proxyBytes += bytes;
  }

  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#parts.onClose();
  }
}

import type { ServerResponse } from 'node:http';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { StreamedBody } from '../../oci/serving/answer.ts';
import { writePiece } from '../../oci/serving/stream.ts';
import type { HeldContent } from './chunk-holder.ts';
import type { MeshCounters } from './mesh-counts.ts';
import type { UploadTurns } from './upload-turns.ts';

export interface ChunkAnswerParts {
  readonly held: HeldContent;
  /** Who asks. */
  readonly child: string;
  readonly first: number;
  readonly count: number;
  readonly turns: UploadTurns;
  readonly counters: MeshCounters;
  readonly onEnd: () => void;
}

/**
 * The body of an answer: each chunk as soon as it is here, in the child's turn. No more than two are in memory on its
 * account, besides those that come from above, which this host keeps for itself.
 */
export class ChunkAnswer implements StreamedBody {
  readonly #parts: ChunkAnswerParts;

  constructor(parts: ChunkAnswerParts) {
    this.#parts = parts;
  }

  async send(outgoing: ServerResponse, signal: AbortSignal): Promise<void> {
    const { first, count, held } = this.#parts;
    // What is not here is asked for at once, so that it becomes one request to the one above.
    const coming = new Map<number, Promise<Buffer>>();
    for (let index = first; index < first + count; index++) {
      if (held.has(index)) continue;
      const chunk = held.chunk(index, signal);
      chunk.catch(() => {});
      coming.set(index, chunk);
    }
    let written: Promise<void> = Promise.resolve();
    for (let index = first; index < first + count; index++) {
      const bytes = await this.#chunk(index, coming.get(index), signal);
      coming.delete(index);
      // The child sees that it is not all, and that the connection is well.
      if (bytes === null) break;
      await unlessAborted(written, signal);
      written = this.#write(outgoing, bytes, signal);
      // Awaited a round later; a failure in between must not count as unhandled.
      written.catch(() => {});
    }
    await unlessAborted(written, signal);
    outgoing.end();
  }

  async close(): Promise<void> {
    this.#parts.onEnd();
  }

  /** Null if it cannot be had. */
  async #chunk(
    index: number,
    coming: Promise<Buffer> | undefined,
    signal: AbortSignal,
  ): Promise<Buffer | null> {
    try {
      return await unlessAborted(coming ?? this.#parts.held.chunk(index, signal), signal);
    } catch {
      signal.throwIfAborted();
      return null;
    }
  }

  async #write(outgoing: ServerResponse, bytes: Buffer, signal: AbortSignal): Promise<void> {
    const { turns, child, counters } = this.#parts;
    const done = await turns.take(child, bytes.length, signal);
    try {
      await writePiece(outgoing, bytes);
      counters.sentBytes += bytes.length;
      counters.sentChunks++;
    } finally {
      done();
    }
  }
}

import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { ByteSource } from '../../format/byte-source.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { ByteRange } from './range.ts';

/** Bytes of a blob to send, some of which may still be on their way. */
export interface StreamSource extends Pick<ByteSource, 'read'> {
  /** Resolves when at least the first byte of `range` can be read, to the offset up to which that is so. */
  readableTo(range: ByteRange, signal: AbortSignal): Promise<number>;
}

/** Read and written at once. Two of them a response are all that is held, however slow the client. */
export const PIECE_BYTES = 256 * 1024;

/** A whole, local blob as a {@link StreamSource}. */
export function wholeSource(source: ByteSource): StreamSource {
  return {
    read: (offset, target) => source.read(offset, target),
    readableTo: async () => source.size,
  };
}

/**
 * Sends a range of `source` and ends the response. Headers are set, and perhaps sent, before. Resolves when all
 * is handed to the kernel, rejects when the source fails or the signal fires: the caller then destroys the
 * connection, so that the client cannot take the part for the whole.
 */
export async function sendRange(
  outgoing: ServerResponse,
  source: StreamSource,
  { start, end }: ByteRange,
  signal: AbortSignal,
): Promise<void> {
  const pieces = [Buffer.alloc(0), Buffer.alloc(0)];
  let written: Promise<void> = Promise.resolve();
  for (let offset = start, turn = 0; offset < end; turn = 1 - turn) {
    const readable = Math.min(await source.readableTo({ start: offset, end }, signal), end);
    const length = Math.min(readable - offset, PIECE_BYTES);
    const piece = takeBuffer(pieces, turn, length);
    await source.read(offset, piece, signal);
    // The piece before must be out before its buffer comes round again.
    await unlessAborted(written, signal);
    written = writePiece(outgoing, piece);
    // Awaited a round later; a failure in between must not count as unhandled.
    written.catch(() => {});
    offset += length;
  }
  await unlessAborted(written, signal);
  outgoing.end();
  if (!outgoing.writableFinished) await once(outgoing, 'finish', { signal });
}

function takeBuffer(pieces: Buffer[], turn: number, length: number): Buffer {
  let buffer = pieces[turn];
  if (buffer === undefined || buffer.length < length) {
    buffer = Buffer.allocUnsafeSlow(length);
    pieces[turn] = buffer;
  }
  return buffer.subarray(0, length);
}

/** Resolves when the kernel has it: the buffer may be filled anew. */
export function writePiece(outgoing: ServerResponse, piece: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    outgoing.write(piece, (error) => (error ? reject(error) : resolve()));
  });
}

import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ByteSource } from '../../format/byte-source.ts';
import type { Digest } from '../../oci/digest.ts';
import type { BlobBody } from '../../oci/resumed-body.ts';
import type { ChunkedBlobs } from './chunked-blobs.ts';
import type { KnownTable } from './known-content.ts';
import type { Asked, MirrorContext } from './mirror-context.ts';
import { requestTable } from './table-request.ts';

/** How long one question to a proxy waits. */
const WAIT_SECONDS = 10;
const PAUSE_MS = 1_000;
/** Read at once. */
const PIECE_BYTES = 1024 * 1024;

/**
 * The chunks of a blob that a host is given as it comes, for want of a chunk table. As soon as the proxy has one, the
 * rest comes by chunks, from other hosts where they have them: else each of many hosts would download all of it from
 * the proxy.
 */
export class ChunksToCome {
  readonly #parts: MirrorContext & { readonly chunked: ChunkedBlobs };
  readonly #asked: Asked;
  readonly #digest: Digest;
  readonly #signal: AbortSignal;
  #known: KnownTable | null = null;
  #superseded: Readable | null = null;

  /** @param signal ends asking and reading; it belongs to the blob, not to who asked */
  constructor(
    parts: MirrorContext & { readonly chunked: ChunkedBlobs },
    asked: Asked,
    digest: Digest,
    signal: AbortSignal,
  ) {
    this.#parts = parts;
    this.#asked = { ...asked, request: { ...asked.request, signal } };
    this.#digest = digest;
    this.#signal = signal;
    void this.#wait();
  }

  /** From an offset on, if the chunks are known by now: then once, for what they fail to give comes as before. */
  async body(offset: number): Promise<BlobBody | null> {
    const known = this.#known;
    this.#known = null;
    if (known === null) return null;
    const source = await this.#parts.chunked.open(this.#asked.target, this.#digest, known.table);
    const body = Readable.from(piecesOf(source, offset, this.#signal), { objectMode: false });
    // Also of a body that nobody begins to read: its generator would not come to an end.
    body.once('close', () => void source.close().catch(() => {}));
    return { sizeBytes: source.size, offsetBytes: offset, body };
  }

  /** This answer is broken off when the chunks are known. */
  supersede(answer: Readable): void {
    this.#superseded = answer;
  }

  async #wait(): Promise<void> {
    try {
      for (;;) {
        const found = await requestTable(this.#parts, this.#asked, this.#digest, {
          waitSeconds: WAIT_SECONDS,
        });
        this.#signal.throwIfAborted();
        if (this.#superseded?.readableEnded === true) return;
        if (found !== null && found !== 'on its way') {
          this.#known = found;
          this.#superseded?.destroy(new Error('the rest comes by chunks'));
          return;
        }
        // Of a first question, or a proxy that is in trouble.
        if (found === null) await sleep(PAUSE_MS, undefined, { signal: this.#signal, ref: false });
      }
    } catch {
      // It came, or nobody wants it any more.
    }
  }
}

/** The cache reads ahead of who walks forward. */
async function* piecesOf(source: ByteSource, start: number, signal: AbortSignal) {
  for (let offset = start; offset < source.size; ) {
    const piece = Buffer.allocUnsafe(Math.min(source.size - offset, PIECE_BYTES));
    await source.read(offset, piece, signal);
    offset += piece.length;
    yield piece;
  }
}

import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { batchesOf } from './body-batches.ts';
import { type RegistryContext, RegistryError } from './errors.ts';
import { discard } from './registry-http.ts';

/** A running answer from upstream. */
export interface BlobBody {
  /** Of the whole blob. */
  readonly sizeBytes: number;
  /** Where in the blob `body` starts: not where it was asked to, if upstream does not know ranges. */
  readonly offsetBytes: number;
  /** Fails when the connection breaks. */
  readonly body: Readable;
}

/** Asks upstream for a blob from an offset on, with retries of its own. */
export type FetchBlob = (offset: number, signal: AbortSignal) => Promise<BlobBody>;

/** How often a download that breaks off again and again is taken up, unless it gets on. */
const MAX_RESUMES = 5;
const GETS_ON_BYTES = 1024 * 1024;
const RESUME_DELAY_MS = 100;

interface Wanted {
  readonly start: number;
  /** The blob's if left out. What `fetch` gets may go on. */
  readonly end?: number;
}

/** The bytes of a blob from an offset on, whatever interrupts their way here. */
export class ResumedBody {
  /** Of the whole blob. */
  readonly sizeBytes: number;
  readonly #end: number;
  readonly #fetch: FetchBlob;
  readonly #context: RegistryContext;
  readonly #signal: AbortSignal;
  #next: BlobBody | null;
  #offset: number;

  private constructor(
    first: BlobBody,
    { start, end = first.sizeBytes }: Wanted,
    fetch: FetchBlob,
    context: RegistryContext,
    signal: AbortSignal,
  ) {
    this.sizeBytes = first.sizeBytes;
    this.#next = first;
    this.#offset = start;
    this.#end = end;
    this.#fetch = fetch;
    this.#context = context;
    this.#signal = signal;
  }

  /**
   * Resolves when upstream answers. To be read or discarded.
   * @param context whom `fetch` asks
   */
  static async begin(
    wanted: Wanted,
    fetch: FetchBlob,
    context: RegistryContext,
    signal: AbortSignal,
  ): Promise<ResumedBody> {
    return new ResumedBody(await fetch(wanted.start, signal), wanted, fetch, context, signal);
  }

  /** Lets go of the connection. */
  discard(): void {
    if (this.#next !== null) discard(this.#next.body);
    this.#next = null;
  }

  /** Each byte once, in order. Ends where upstream ends it, be that early. Throws RegistryError. */
  async *batches(): AsyncGenerator<readonly Buffer[], void, void> {
    for (let resumes = 0; ; resumes++) {
      const before = this.#offset;
      const answer = this.#next ?? (await this.#fetch(before, this.#signal));
      this.#next = null;
      if (answer.sizeBytes !== this.sizeBytes) throw this.#changed(answer);
      let failure: RegistryError;
      let skip = before - answer.offsetBytes;
      try {
        for await (const batch of batchesOf(answer.body)) {
          const fresh = batch.flatMap((piece) => {
            const rest = piece.subarray(Math.min(skip, piece.length));
            skip -= piece.length - rest.length;
            this.#offset += rest.length;
            return rest.length > 0 ? [rest] : [];
          });
          if (fresh.length > 0) yield fresh;
        }
        return;
      } catch (cause) {
        failure = this.#brokenOff(cause);
      }
      if (this.#offset >= this.#end) return;
      if (this.#offset - before >= GETS_ON_BYTES) resumes = 0;
      if (this.#signal.aborted || resumes === MAX_RESUMES) throw failure;
      await delay(RESUME_DELAY_MS * 2 ** resumes, undefined, { signal: this.#signal });
    }
  }

  /** What is under a digest does not change: what came before was of another blob. */
  #changed({ sizeBytes, body }: BlobBody): RegistryError {
    discard(body);
    const message = `it had ${this.sizeBytes} bytes when the download began, and ${sizeBytes} when it was taken up again`;
    return new RegistryError('ERR_REGISTRY_PROTOCOL', this.#context, message);
  }

  #brokenOff(cause: unknown): RegistryError {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `the download broke off: ${reason}`;
    return new RegistryError('ERR_REGISTRY_BODY', this.#context, message, { cause });
  }
}

import { statfs } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, shortDigest } from '../../oci/digest.ts';
import { discard } from '../../oci/registry-http.ts';
import { ResumedBody } from '../../oci/resumed-body.ts';
import type { Answer } from '../../oci/serving/answer.ts';
import { streamed, whatIsAsked } from '../../oci/serving/blob-part.ts';
import { conditionalAnswer } from '../../oci/serving/conditions.ts';
import { ArrivingBlob } from './arriving-blob.ts';
import { askForRight } from './ask-for-right.ts';
import { blobBody } from './blob-body.ts';
import type { ChunkedBlobs } from './chunked-blobs.ts';
import { ComingBlob } from './coming-blob.ts';
import { firstBytes } from './first-bytes.ts';
import { type Asked, askFor, handBack, type MirrorContext } from './mirror-context.ts';
import type { MirrorTarget } from './mirror-target.ts';
import type { RelayedAnswer } from './proxy-relay.ts';
import type { TableAnswer } from './table-request.ts';

export interface ArrivingBlobsParts extends MirrorContext {
  readonly chunked: ChunkedBlobs;
  /** Takes blobs while they arrive. */
  readonly directory: string;
  /** How long a blob may stop in the middle, until a proxy goes on with it. */
  readonly patienceMs: number;
}

/** What came of asking for a blob. */
type Begun =
  | {
      readonly kind: 'arriving';
      readonly blob: ArrivingBlob;
      /** Null if it comes from a proxy alone. */
      readonly coming: ComingBlob | null;
    }
  /** For who asked alone. */
  | { readonly kind: 'other'; readonly answer: RelayedAnswer };

type Arrived = Extract<Begun, { readonly kind: 'arriving' }>;

/** What a proxy has said of it. */
type Coming = Extract<TableAnswer, { readonly kind: 'coming' }>;

/** A blob that was asked for. */
interface Arrival {
  readonly begun: Promise<Begun>;
  /** Ends it. */
  readonly giveUp: AbortController;
  /** How many wait for {@link begun}. */
  waiting: number;
  /** What {@link begun} resolves to, once it does. */
  found: Begun | null;
}

const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 2_000;
/** A smaller blob is had from a proxy sooner than from other hosts. */
const MIN_SHARED_BYTES = 1024 * 1024;
/** So long, a blob that has arrived is given to hosts that get it by the chunks of then. */
const LINGER_MS = 60_000;
/** Of the disk; below that, blobs are handed on without being kept. */
const MIN_FREE_BYTES = 256 * 1024 * 1024;

/**
 * Blobs of which no chunks are known yet: from a proxy, once for all who ask at the same time; taken up again where
 * they broke off; and kept in the chunk cache once they are verified.
 */
export class ArrivingBlobs {
  readonly #parts: ArrivingBlobsParts;
  readonly #arrivals = new Map<string, Arrival>();
  readonly #work = new Set<Promise<void>>();
  /** Ends each at once. */
  readonly #lingering = new Set<() => void>();
  readonly #closed = new AbortController();

  constructor(parts: ArrivingBlobsParts) {
    this.#parts = parts;
  }

  has(target: MirrorTarget, digest: Digest): boolean {
    return this.#arrivals.has(keyOf(target, digest));
  }

  /**
   * GET or HEAD. Null if the blob ceased to be on its way just then: it is kept by now, or was given up.
   * @param coming if a proxy is fetching it: then it comes from other hosts where they have it
   * @throws ProxiesAwayError before anything was sent
   */
  async answer(asked: Asked, digest: Digest, coming: Coming | null): Promise<Answer | null> {
    const { request, target, caller } = asked;
    if (request.method === 'HEAD') return this.#relay(asked, digest);
    const key = keyOf(target, digest);
    const joined = this.#arrivals.get(key);
    const arrival = joined ?? this.#begin(key, asked, digest, coming);
    const begun = await began(arrival, request.signal, joined === undefined);
    if (begun.kind === 'other') {
      return joined === undefined ? handBack(begun.answer, request) : this.#relay(asked, digest);
    }
    const { blob } = begun;
    if (!blob.join()) {
      await blob.verified.catch(() => {});
      this.#forget(key, arrival);
      return null;
    }
    try {
      if (!this.#parts.rights.isGranted(caller, target, digest)) {
        const refusal = await askForRight(this.#parts, asked, digest);
        if (refusal !== null) {
          blob.leave();
          return refusal;
        }
      }
      return await read(blob, asked, digest);
    } catch (error) {
      blob.leave();
      throw error;
    }
  }

  /** Ends what is under way. */
  async close(): Promise<void> {
    this.#closed.abort(new Error('the mirror is being stopped'));
    for (const end of this.#lingering) end();
    await Promise.all(this.#work);
  }

  /** As the proxy has it, for this client alone. */
  async #relay(asked: Asked, digest: Digest): Promise<Answer> {
    const { method, headers } = asked.request;
    const options =
      method === 'HEAD'
        ? ({ method, lane: 'small', headers } as const)
        : ({ method: 'GET', lane: 'bulk', headers } as const);
    return handBack(await askFor(this.#parts, asked, `blobs/${digest}`, options), asked.request);
  }

  #begin(key: string, asked: Asked, digest: Digest, coming: Coming | null): Arrival {
    const giveUp = new AbortController();
    const begun = this.#ask(asked, digest, coming, giveUp).then((found) => {
      arrival.found = found;
      return found;
    });
    const arrival: Arrival = { begun, giveUp, waiting: 0, found: null };
    this.#arrivals.set(key, arrival);
    const work = this.#seeThrough(arrival, asked.target, digest)
      .catch((err: unknown) => {
        this.#parts.logger.debug({ err, digest: shortDigest(digest) }, 'a blob was not kept');
      })
      .finally(() => {
        this.#forget(key, arrival);
        this.#work.delete(work);
      });
    this.#work.add(work);
    return arrival;
  }

  #forget(key: string, arrival: Arrival): void {
    if (this.#arrivals.get(key) === arrival) this.#arrivals.delete(key);
  }

  async #seeThrough({ begun, giveUp }: Arrival, target: MirrorTarget, digest: Digest): Promise<void> {
    let isOther = false;
    try {
      const found = await begun;
      isOther = found.kind === 'other';
      if (found.kind === 'arriving') await this.#keep(found, target, digest);
    } finally {
      // It has arrived, or never will: proxies are not asked any more how it stands with it.
      if (!isOther) giveUp.abort(new Error('the blob is not on its way any more'));
    }
  }

  /** Until that is done, who asks for the blob joins it. */
  async #keep({ blob, coming }: Arrived, target: MirrorTarget, digest: Digest): Promise<void> {
    const { chunked, known } = this.#parts;
    try {
      const table = await blob.verified;
      await chunked.keep(digest, table, blob.source());
      known.putTable(digest, { table, isProven: true });
      chunked.offer(target, digest, table);
      if (coming !== null && blob.join()) this.#linger(blob, coming);
    } catch (error) {
      coming?.close();
      throw error;
    } finally {
      blob.close();
    }
  }

  #linger(blob: ArrivingBlob, coming: ComingBlob): void {
    const end = () => {
      clearTimeout(timer);
      this.#lingering.delete(end);
      coming.close();
      blob.leave();
    };
    const timer = setTimeout(end, LINGER_MS).unref();
    this.#lingering.add(end);
    if (this.#closed.signal.aborted) end();
  }

  /** Asks for the whole blob, whoever wants which part of it. */
  async #ask(asked: Asked, digest: Digest, told: Coming | null, giveUp: AbortController): Promise<Begun> {
    const { directory, rights } = this.#parts;
    const { target, caller } = asked;
    const signal = AbortSignal.any([giveUp.signal, this.#closed.signal]);
    const get = (offset: number) => {
      const headers = offset === 0 ? {} : { range: `bytes=${offset}-` };
      const options = { method: 'GET', lane: 'bulk', headers, signal } as const;
      return askFor(this.#parts, asked, `blobs/${digest}`, options);
    };
    const coming = await this.#coming(asked, digest, told, signal);
    let host = told?.host ?? '';
    let next = coming?.body() ?? null;
    if (next === null) {
      const answer = await get(0);
      if (answer.response.statusCode !== 200) return { kind: 'other', answer };
      rights.grant(caller, target, digest);
      host = answer.host;
      next = blobBody(answer, {});
      if (!(await hasRoom(directory, next.sizeBytes))) return { kind: 'other', answer };
    }
    const fetch = async (offset: number) => {
      const first = next;
      next = null;
      return first ?? this.#insist(async () => blobBody(await get(offset), { offset }), signal);
    };
    const context = { host, repository: target.repository, reference: digest };
    const body = await ResumedBody.begin({ start: 0 }, fetch, context, signal);
    try {
      const blob = await ArrivingBlob.begin(digest, directory, body, giveUp);
      coming?.begin(blob);
      return { kind: 'arriving', blob, coming };
    } catch (error) {
      body.discard();
      coming?.close();
      throw error;
    }
  }

  /** Null for a blob that is to come from a proxy alone. */
  async #coming(
    asked: Asked,
    digest: Digest,
    told: Coming | null,
    signal: AbortSignal,
  ): Promise<ComingBlob | null> {
    const { chunked, directory } = this.#parts;
    const { mesh } = chunked;
    if (mesh === null || told === null || told.chunks.sizeBytes < MIN_SHARED_BYTES) return null;
    if (!(await hasRoom(directory, told.chunks.sizeBytes))) return null;
    return new ComingBlob({ ...this.#parts, mesh }, asked, digest, told.chunks, signal);
  }

  async #insist<T>(attempt: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const untilMs = performance.now() + this.#parts.patienceMs;
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, MAX_PAUSE_MS)) {
      try {
        return await attempt();
      } catch (error) {
        if (signal.aborted || performance.now() > untilMs) throw error;
        await sleep(pauseMs, undefined, { signal });
      }
    }
  }
}

/** @param isStarter whose the answer is, if it is no blob */
async function began(arrival: Arrival, signal: AbortSignal, isStarter: boolean): Promise<Begun> {
  arrival.waiting++;
  try {
    return await unlessAborted(arrival.begun, signal);
  } catch (error) {
    if (arrival.waiting === 1) abandon(arrival);
    if (isStarter) arrival.begun.then(discardOther, () => {});
    throw error;
  } finally {
    arrival.waiting--;
  }
}

/** An answer that nobody takes. */
function discardOther(found: Begun): void {
  if (found.kind === 'other') discard(found.answer.response.body);
}

/** All who asked have left before anything came. */
function abandon({ found, giveUp }: Arrival): void {
  if (found === null) giveUp.abort(new Error('nobody asks for the blob any more'));
  else if (found.kind === 'arriving') found.blob.giveUpIfUnused();
}

/** Joined; the answer leaves. */
async function read(blob: ArrivingBlob, { request }: Asked, digest: Digest): Promise<Answer> {
  if (blob.sizeBytes === 0) await unlessAborted(blob.verified, request.signal);
  const decided = conditionalAnswer(request.headers, digest);
  if (decided !== null) {
    blob.leave();
    return decided;
  }
  const part = whatIsAsked(request, digest, blob.sizeBytes);
  request.notes.source = 'fill';
  if (part.range.start === 0) await firstBytes(blob, part.range, request.signal);
  return streamed(blob, part, async () => blob.leave());
}

function keyOf({ registry, repository }: MirrorTarget, digest: Digest): string {
  return `${registry}/${repository}@${digest}`;
}

async function hasRoom(directory: string, sizeBytes: number): Promise<boolean> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize - sizeBytes >= MIN_FREE_BYTES;
}

import type { ByteSource } from '../../format/byte-source.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Answer } from '../../oci/serving/answer.ts';
import { blobHeaders, streamed, whatIsAsked } from '../../oci/serving/blob-part.ts';
import { conditionalAnswer } from '../../oci/serving/conditions.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { ArrivingBlobs } from './arriving-blobs.ts';
import { askForRight } from './ask-for-right.ts';
import { CheckedStream } from './checked-stream.ts';
import { type ChunkedBlobs, readThrough } from './chunked-blobs.ts';
import { firstBytes } from './first-bytes.ts';
import type { KnownTable } from './known-content.ts';
import { type Asked, askFor, handBack, type MirrorContext } from './mirror-context.ts';
import { ProxiesAwayError } from './proxy-relay.ts';
import { ReadAhead, type ReadAheadMemory } from './read-ahead.ts';
import { requestTable, type TableAnswer } from './table-request.ts';

export interface BlobRouteParts extends MirrorContext {
  readonly chunked: ChunkedBlobs;
  readonly arriving: ArrivingBlobs;
  /** For blobs that are read through the cache. */
  readonly readAhead: ReadAheadMemory;
}

/** How long one question may wait. */
const WAIT_SECONDS = 5;
/** Clients wait 30 seconds for headers: a registry that says nothing for so long may still answer the request itself. */
const MAX_WAIT_MS = 20_000;

/** How a blob is read of which no chunks are known: all of it as it comes, or parts alone, here and there. */
export type Reading = 'as a whole' | 'as parts';

/**
 * GET or HEAD of a blob: through the host's chunk cache where its chunks are known, else as it comes from a proxy.
 * Nobody is given anything that a proxy has not said they may read.
 */
export async function answerBlob(
  parts: BlobRouteParts,
  asked: Asked,
  digest: Digest,
  reading: Reading = 'as a whole',
): Promise<Answer> {
  const { known, rights, chunked, arriving } = parts;
  const { target, caller } = asked;
  try {
    let found: KnownTable | null = null;
    while (found === null) {
      if (reading === 'as parts') {
        found = known.table(digest) ?? (await tableAtOnce(parts, asked, digest));
        if (found === null) return await relayPart(parts, asked, digest);
        break;
      }
      const told = await tableFor(parts, asked, digest);
      if (told?.kind === 'whole') found = told.known;
      else {
        const answer = await arriving.answer(asked, digest, told?.kind === 'coming' ? told : null);
        if (answer !== null) return answer;
      }
    }
    if (!rights.isGranted(caller, target, digest)) {
      const refusal = await askForRight(parts, asked, digest);
      if (refusal !== null) return refusal;
    }
    const source = await chunked.open(target, digest, found.table, reading === 'as parts' ? 'short' : 'long');
    return await fromChunks(parts, source, asked, digest, found);
  } catch (error) {
    if (!(error instanceof ProxiesAwayError)) throw error;
    const held = await fromHeld(parts, asked, digest);
    if (held === null) throw error;
    return held;
  }
}

/** Null for a blob that is on its way: its bytes are here before its chunks would be. */
async function tableFor(parts: BlobRouteParts, asked: Asked, digest: Digest): Promise<TableAnswer | null> {
  const isArriving = () => parts.arriving.has(asked.target, digest);
  if (isArriving()) return null;
  const known = parts.known.table(digest);
  const told: TableAnswer =
    known === null ? await askForTable(parts, asked, digest) : { kind: 'whole', known };
  // Another one may have asked for it meanwhile.
  return isArriving() ? null : told;
}

/**
 * The table, if a proxy has the blob. With a mesh, a proxy that lacks it is told to fetch it, and tells what it knows of
 * its chunks when the first has come.
 */
async function askForTable(parts: BlobRouteParts, asked: Asked, digest: Digest): Promise<TableAnswer> {
  if (parts.chunked.mesh === null || asked.request.method !== 'GET') {
    return requestTable(parts, asked, digest, null);
  }
  const startMs = performance.now();
  for (;;) {
    const fetch = { waitSeconds: WAIT_SECONDS, knownChunks: 0 };
    const told = await requestTable(parts, asked, digest, fetch);
    if (told.kind !== 'waiting') return told;
    if (performance.now() - startMs + 1000 * WAIT_SECONDS > MAX_WAIT_MS) return told;
  }
}

/** The table, if a proxy has the blob; else it begins to fetch it. */
async function tableAtOnce(parts: BlobRouteParts, asked: Asked, digest: Digest): Promise<KnownTable | null> {
  const told = await requestTable(parts, asked, digest, { waitSeconds: 0, knownChunks: null });
  return told.kind === 'whole' ? told.known : null;
}

async function relayPart(parts: BlobRouteParts, asked: Asked, digest: Digest): Promise<Answer> {
  const options = { method: 'GET', lane: 'bulk', headers: asked.request.headers } as const;
  return handBack(await askFor(parts, asked, `blobs/${digest}`, options), asked.request);
}

/** Takes over the source. */
async function fromChunks(
  { known, readAhead, logger }: BlobRouteParts,
  source: ByteSource,
  { request }: Asked,
  digest: Digest,
  { table, isProven }: KnownTable,
): Promise<Answer> {
  const { method, headers, signal, notes } = request;
  notes.source = 'cache';
  const ahead = new ReadAhead(source, readAhead, signal);
  const close = () => {
    ahead.close();
    return source.close();
  };
  try {
    const decided = conditionalAnswer(headers, digest);
    if (decided !== null || method === 'HEAD') {
      await close();
      return decided ?? { status: 200, headers: blobHeaders(digest, source.size), body: null };
    }
    const asked = whatIsAsked(request, digest, source.size);
    await firstBytes(ahead, asked.range, signal);
    const isWhole = asked.range.start === 0 && asked.range.end === source.size;
    if (isProven || !isWhole) return streamed(ahead, asked, close);
    const onVerdict = (isRight: boolean) => {
      if (isRight) known.putTable(digest, { table, isProven: true });
      else {
        known.dropTable(digest);
        logger.warn({ digest }, 'the chunk table that a proxy gave for a blob is wrong: forgotten');
      }
    };
    return streamed(new CheckedStream(ahead, { digest, sizeBytes: source.size }, onVerdict), asked, close);
  } catch (error) {
    await close();
    throw error;
  }
}

/** What this host has in whole, for those who might read it last; null if it has less. */
async function fromHeld(parts: BlobRouteParts, asked: Asked, digest: Digest): Promise<Answer | null> {
  const { known, rights, chunked } = parts;
  const { target, caller, request } = asked;
  const found = rights.wasGranted(caller, target, digest) ? known.table(digest) : null;
  if (found === null) return null;
  const source = await chunked.openHeld(digest, found.table);
  try {
    const { range } = whatIsAsked(request, digest, source.size);
    // An answer that began could not be taken back.
    await readThrough(source, range.start, range.end, request.signal);
  } catch (error) {
    await source.close();
    request.signal.throwIfAborted();
    if (error instanceof RequestError) throw error;
    return null;
  }
  return fromChunks(parts, source, asked, digest, found);
}

import type { ByteSource } from '../../format/byte-source.ts';
import { decodeChunkTable } from '../../format/chunk-table.ts';
import { FormatError } from '../../format/errors.ts';
import { type Digest, matchesDigest } from '../../oci/digest.ts';
import { contentDigest } from '../../oci/registry-answers.ts';
import { discard, readUpTo } from '../../oci/registry-http.ts';
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
import type { Asked, MirrorContext } from './mirror-context.ts';
import { ProxiesAwayError } from './proxy-relay.ts';
import { ReadAhead, type ReadAheadMemory } from './read-ahead.ts';

export interface BlobRouteParts extends MirrorContext {
  readonly chunked: ChunkedBlobs;
  readonly arriving: ArrivingBlobs;
  /** For blobs that are read through the cache. */
  readonly readAhead: ReadAheadMemory;
}

/** Of a blob of 128 GiB in chunks of the usual size. */
const MAX_TABLE_BYTES = 16 * 1024 * 1024;

/**
 * GET or HEAD of a blob: through the host's chunk cache where its chunks are known, else as it comes from a proxy.
 * Nobody is given anything that a proxy has not said they may read.
 */
export async function answerBlob(parts: BlobRouteParts, asked: Asked, digest: Digest): Promise<Answer> {
  const { known, rights, chunked, arriving } = parts;
  const { target, caller } = asked;
  try {
    let found: KnownTable | null = null;
    while (found === null) {
      found = known.table(digest) ?? (await newTable(parts, asked, digest));
      const answer = found === null ? await arriving.answer(asked, digest) : null;
      if (answer !== null) return answer;
    }
    if (!rights.isGranted(caller, target, digest)) {
      const refusal = await askForRight(parts, asked, digest);
      if (refusal !== null) return refusal;
    }
    return await fromChunks(parts, await chunked.open(target, digest, found.table), asked, digest, found);
  } catch (error) {
    if (!(error instanceof ProxiesAwayError)) throw error;
    const held = await fromHeld(parts, asked, digest);
    if (held === null) throw error;
    return held;
  }
}

/** Null for a blob that is to be had as it comes: others may be waiting for it already. */
async function newTable(parts: BlobRouteParts, asked: Asked, digest: Digest): Promise<KnownTable | null> {
  if (parts.arriving.has(asked.target, digest)) return null;
  const found = await tableFor(parts, asked, digest);
  return parts.arriving.has(asked.target, digest) ? null : found;
}

/** The chunk table that a proxy has for a blob, given to this caller: so the caller may read it. Null if there is none. */
async function tableFor(
  { relay, rights, known }: BlobRouteParts,
  { target, caller, request }: Asked,
  digest: Digest,
): Promise<KnownTable | null> {
  const { registry, repository } = target;
  const query = new URLSearchParams({ repository, ns: registry });
  const headers: Record<string, string> =
    caller.authorization === null ? {} : { authorization: caller.authorization };
  const path = `dadi/v1/chunk-tables/${digest}?${query}`;
  try {
    const { response, host } = await relay.ask({
      ...{ method: 'GET', path, headers, lane: 'small', repository, signal: request.signal },
    });
    if (response.statusCode !== 200) {
      discard(response.body);
      return null;
    }
    const bytes = await readUpTo(response.body, MAX_TABLE_BYTES, { host, repository, reference: digest });
    const named = contentDigest(response);
    if (named !== null && !matchesDigest(bytes, named)) {
      throw new FormatError('ERR_CHUNK_TABLE_CORRUPT', 'the chunk table was changed on its way');
    }
    const found = { table: decodeChunkTable(bytes), isProven: false };
    known.putTable(digest, found);
    rights.grant(caller, target, digest);
    return found;
  } catch {
    request.signal.throwIfAborted();
    // The blob itself is asked for next: what is wrong shows there.
    return null;
  }
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

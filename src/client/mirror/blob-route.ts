import type { ByteSource } from '../../format/byte-source.ts';
import { type ChunkTable, decodeChunkTable } from '../../format/chunk-table.ts';
import type { Digest } from '../../oci/digest.ts';
import { discard, readUpTo } from '../../oci/registry-http.ts';
import type { Answer } from '../../oci/serving/answer.ts';
import { blobHeaders, streamed, whatIsAsked } from '../../oci/serving/blob-part.ts';
import { conditionalAnswer } from '../../oci/serving/conditions.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { ArrivingBlobs } from './arriving-blobs.ts';
import { askForRight } from './ask-for-right.ts';
import type { ChunkedBlobs } from './chunked-blobs.ts';
import { readThrough } from './chunked-blobs.ts';
import { firstBytes } from './first-bytes.ts';
import type { Asked, MirrorContext } from './mirror-context.ts';
import { ProxiesAwayError } from './proxy-relay.ts';
import { ReadAhead } from './read-ahead.ts';

export interface BlobRouteParts extends MirrorContext {
  readonly chunked: ChunkedBlobs;
  readonly arriving: ArrivingBlobs;
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
    const table = known.table(digest) ?? (await tableFor(parts, asked, digest));
    if (table === null) return await arriving.answer(asked, digest);
    if (!rights.isGranted(caller, target, digest)) {
      const refusal = await askForRight(parts, asked, digest);
      if (refusal !== null) return refusal;
    }
    return await fromChunks(await chunked.open(target, digest, table), asked, digest);
  } catch (error) {
    if (!(error instanceof ProxiesAwayError)) throw error;
    const held = await fromHeld(parts, asked, digest);
    if (held === null) throw error;
    return held;
  }
}

/** The chunk table that a proxy has for a blob, given to this caller: so the caller may read it. Null if there is none. */
async function tableFor(
  { relay, rights, known }: BlobRouteParts,
  { target, caller, request }: Asked,
  digest: Digest,
): Promise<ChunkTable | null> {
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
    const table = decodeChunkTable(bytes);
    known.putTable(digest, table);
    rights.grant(caller, target, digest);
    return table;
  } catch {
    request.signal.throwIfAborted();
    // The blob itself is asked for next: what is wrong shows there.
    return null;
  }
}

/** Takes over the source. */
async function fromChunks(source: ByteSource, { request }: Asked, digest: Digest): Promise<Answer> {
  const { method, headers, signal, notes } = request;
  notes.source = 'cache';
  try {
    const decided = conditionalAnswer(headers, digest);
    if (decided !== null || method === 'HEAD') {
      await source.close();
      return decided ?? { status: 200, headers: blobHeaders(digest, source.size), body: null };
    }
    const asked = whatIsAsked(request, digest, source.size);
    const ahead = new ReadAhead(source, signal);
    await firstBytes(ahead, asked.range, signal);
    return streamed(ahead, asked, () => source.close());
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** What this host has in whole, for those who might read it last; null if it has less. */
async function fromHeld(
  { known, rights, chunked }: BlobRouteParts,
  asked: Asked,
  digest: Digest,
): Promise<Answer | null> {
  const { target, caller, request } = asked;
  const table = rights.wasGranted(caller, target, digest) ? known.table(digest) : null;
  if (table === null) return null;
  const source = await chunked.openHeld(digest, table);
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
  return fromChunks(source, asked, digest);
}

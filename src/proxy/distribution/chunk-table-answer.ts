import { type Digest, digestOf } from '../../oci/digest.ts';
import { type Answer, bufferAnswer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { parsePathDigest } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { StoreError } from '../../store/errors.ts';
import type { Access } from '../access/access.ts';
import type { Blobs } from '../content/blobs.ts';
import type { ChunkTables } from '../content/chunk-tables.ts';
import { required, waitMs } from '../http/parameters.ts';
import type { Target, Upstreams } from '../upstream/upstreams.ts';

export interface ChunkTableParts {
  readonly access: Access;
  readonly upstreams: Pick<Upstreams, 'choose'>;
  readonly blobs: Blobs;
  readonly tables: ChunkTables;
}

/**
 * GET /dadi/v1/chunk-tables/<blob digest>?repository=NAME[&ns=UPSTREAM][&fetch=1][&wait=SECONDS][&known=N]: the chunk
 * table of any blob that is kept here, for nodes that read it in parts. Who may read the blob may ask. With `fetch` a blob
 * that is not kept is downloaded: 202 if it is not there after the wait. With `known` the wait ends when more than so many
 * of its chunks have come: 202 with the size of the blob, and the digests of its chunks from that one on.
 * @throws RequestError BLOB_UNKNOWN (not kept, or upstream has none), DIGEST_INVALID, NAME_INVALID; RegistryError,
 *   StoreError
 */
export async function answerChunkTable(
  parts: ChunkTableParts,
  digestText: string,
  request: ServedRequest,
): Promise<Answer> {
  const { access, upstreams, blobs, tables } = parts;
  await access.admit(request);
  const { query, signal } = request;
  const digest = parsePathDigest(digestText);
  const name = required(query, 'repository');
  const asked = {
    name,
    target: upstreams.choose(name, query.get('ns')),
    claim: { kind: 'blob', digest },
  } as const;
  const target = await access.authorise(asked, request);
  if (query.get('fetch') === '1') return fetching(parts, target, digest, request);
  const blob = await blobs.kept(target, digest, signal);
  if (blob === null) {
    throw new RequestError('BLOB_UNKNOWN', `${digest} is not kept here yet: pull it, or ask with fetch=1`);
  }
  return tableAnswer(await tables.of(digest, blob, signal));
}

async function fetching(
  parts: ChunkTableParts,
  target: Target,
  digest: Digest,
  request: ServedRequest,
): Promise<Answer> {
  const { query, signal } = request;
  const known = query.get('known');
  const time = AbortSignal.timeout(waitMs(query.get('wait')));
  const ends = AbortSignal.any([signal, time]);
  try {
    if (known !== null) return await comingAnswer(parts, target, digest, chunkCount(known), ends);
    return tableAnswer(await parts.tables.of(digest, await parts.blobs.whole(target, digest, ends), signal));
  } catch (error) {
    if (!time.aborted || error !== time.reason) throw error;
    return fetchingAnswer({});
  }
}

async function comingAnswer(
  { blobs, tables }: ChunkTableParts,
  target: Target,
  digest: Digest,
  known: number,
  signal: AbortSignal,
): Promise<Answer> {
  const found = await blobs.find(target, digest, signal);
  if (found.kind === 'stored') return tableAnswer(await tables.of(digest, found.source, signal));
  if (found.kind === 'no-room') throw new StoreError('ERR_STORE_FULL', `${digest} cannot be kept`);
  const coming = tables.coming(digest, found.download, found.reader);
  const table = await coming.beyond(known, signal);
  if (table !== null) return tableAnswer(table);
  const digests = coming.digestsFrom(known).toString('base64');
  return fetchingAnswer({ sizeBytes: coming.sizeBytes, digests });
}

function tableAnswer(table: Buffer): Answer {
  return bufferAnswer(200, table, {
    'content-type': 'application/octet-stream',
    'docker-content-digest': digestOf(table),
  });
}

function fetchingAnswer(more: object): Answer {
  return { ...jsonAnswer({ state: 'fetching', ...more }), status: 202 };
}

function chunkCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new RequestError('NAME_INVALID', `${JSON.stringify(text)} is no number of chunks`);
}

import type { ByteSource } from '../../format/byte-source.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { type Answer, bufferAnswer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { parsePathDigest } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
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
 * GET /dadi/v1/chunk-tables/<blob digest>?repository=NAME[&ns=UPSTREAM][&fetch=1][&wait=SECONDS]: the chunk table of any
 * blob that is kept here, for nodes that read it in parts. Who may read the blob may ask. With `fetch` a blob that is not
 * kept is downloaded: 202 if it is not there after the wait, with `isFirst` for the first who asks.
 * @throws RequestError BLOB_UNKNOWN (not kept, or upstream has none), DIGEST_INVALID, NAME_INVALID; RegistryError,
 *   StoreError
 */
export async function answerChunkTable(
  { access, upstreams, blobs, tables }: ChunkTableParts,
  digestText: string,
  request: ServedRequest,
): Promise<Answer> {
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
  const blob =
    query.get('fetch') === '1'
      ? await fetched(blobs, target, digest, request)
      : await blobs.kept(target, digest, signal);
  if (blob === 'on its way') {
    const isFirst = tables.isFirstWish(digest);
    return { ...jsonAnswer({ state: 'fetching', isFirst }), status: 202 };
  }
  if (blob === null) {
    throw new RequestError('BLOB_UNKNOWN', `${digest} is not kept here yet: pull it, or ask with fetch=1`);
  }
  const table = await tables.of(digest, blob, signal);
  return bufferAnswer(200, table, {
    'content-type': 'application/octet-stream',
    'docker-content-digest': digestOf(table),
  });
}

async function fetched(
  blobs: Blobs,
  target: Target,
  digest: Digest,
  { query, signal }: ServedRequest,
): Promise<ByteSource | 'on its way'> {
  const time = AbortSignal.timeout(waitMs(query.get('wait')));
  try {
    return await blobs.whole(target, digest, AbortSignal.any([signal, time]));
  } catch (error) {
    if (time.aborted && error === time.reason) return 'on its way';
    throw error;
  }
}

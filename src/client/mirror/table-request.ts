import { z } from 'zod';
import { decodeChunkTable, MAX_CHUNK_TABLE_BYTES } from '../../format/chunk-table.ts';
import { FormatError } from '../../format/errors.ts';
import { type Digest, matchesDigest } from '../../oci/digest.ts';
import { contentDigest } from '../../oci/registry-answers.ts';
import { discard, readUpTo } from '../../oci/registry-http.ts';
import type { KnownTable } from './known-content.ts';
import type { Asked, MirrorContext } from './mirror-context.ts';

/** What a proxy says of a blob that it is fetching. */
const fetchingSchema = z.looseObject({ isFirst: z.boolean() });

/**
 * The chunk table that a proxy has for a blob, given to this caller: so the caller may read it. Null if there is none.
 * `on its way`: a proxy is fetching the blob, and gives it to another host as it comes.
 * @param fetch has the proxy fetch a blob that it lacks, and waits so long for that; null: it is not to
 */
export async function requestTable(
  { relay, rights, known, credentials }: MirrorContext,
  { target, caller, request }: Asked,
  digest: Digest,
  fetch: { readonly waitSeconds: number } | null,
): Promise<KnownTable | 'on its way' | null> {
  const { registry, repository } = target;
  const query = new URLSearchParams({ repository, ns: registry });
  if (fetch !== null) {
    query.set('fetch', '1');
    query.set('wait', `${fetch.waitSeconds}`);
  }
  const headers: Record<string, string> =
    caller.authorization === null ? {} : { authorization: caller.authorization };
  const path = `dadi/v1/chunk-tables/${digest}?${query}`;
  try {
    const { response, host } = await relay.ask({
      ...{ method: 'GET', path, headers, lane: 'small', repository, signal: request.signal },
    });
    if (response.statusCode === 202) {
      const { isFirst } = fetchingSchema.parse(await response.body.json());
      return isFirst ? null : 'on its way';
    }
    if (response.statusCode !== 200) {
      discard(response.body);
      return null;
    }
    const bytes = await readUpTo(response.body, MAX_CHUNK_TABLE_BYTES, {
      host,
      repository,
      reference: digest,
    });
    const named = contentDigest(response);
    if (named !== null && !matchesDigest(bytes, named)) {
      throw new FormatError('ERR_CHUNK_TABLE_CORRUPT', 'the chunk table was changed on its way');
    }
    const found = { table: decodeChunkTable(bytes), isProven: false };
    if (known.table(digest)?.isProven !== true) known.putTable(digest, found);
    rights.grant(caller, target, digest);
    // Its chunks are asked for in the name of whoever was let in last.
    if (caller.authorization !== null) credentials.remember(registry, repository, caller.authorization);
    return found;
  } catch {
    request.signal.throwIfAborted();
    // The blob itself is asked for next: what is wrong shows there.
    return null;
  }
}

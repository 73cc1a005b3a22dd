import { z } from 'zod';
import { decodeChunkTable, MAX_CHUNK_TABLE_BYTES } from '../../format/chunk-table.ts';
import { FormatError } from '../../format/errors.ts';
import { type Digest, matchesDigest } from '../../oci/digest.ts';
import { contentDigest } from '../../oci/registry-answers.ts';
import { discard, readUpTo } from '../../oci/registry-http.ts';
import type { KnownTable } from './known-content.ts';
import type { Asked, MirrorContext } from './mirror-context.ts';

/** Chunks of a blob that a proxy is fetching. */
export interface ComingChunks {
  /** Of the blob. */
  readonly sizeBytes: number;
  /** SHA-256 of some of its chunks, from the first that was not known; not verified. */
  readonly digests: Buffer;
}

/** What a proxy says of a blob's chunks to whoever may read it. */
export type TableAnswer =
  | { readonly kind: 'whole'; readonly known: KnownTable }
  /** It is fetching the blob. */
  | { readonly kind: 'coming'; readonly host: string; readonly chunks: ComingChunks }
  /** It has heard nothing of it yet. */
  | { readonly kind: 'waiting' }
  | { readonly kind: 'none' };

/** Has a proxy fetch a blob that it lacks. */
export interface TableFetch {
  /** How long it waits for that. */
  readonly waitSeconds: number;
  /** Ends the wait when more of its chunks have come than these; null: it waits for the whole. */
  readonly knownChunks: number | null;
}

const comingSchema = z.looseObject({
  sizeBytes: z.int().nonnegative().nullable().default(null),
  digests: z.base64().default(''),
});

/** The chunk table that a proxy has for a blob, or as much of it as there is. @param fetch null: it fetches nothing */
export async function requestTable(
  { relay, rights, known, credentials }: MirrorContext,
  { target, caller, request }: Asked,
  digest: Digest,
  fetch: TableFetch | null,
): Promise<TableAnswer> {
  const { registry, repository } = target;
  const query = new URLSearchParams({ repository, ns: registry });
  if (fetch !== null) {
    query.set('fetch', '1');
    query.set('wait', `${fetch.waitSeconds}`);
    if (fetch.knownChunks !== null) query.set('known', `${fetch.knownChunks}`);
  }
  const headers: Record<string, string> =
    caller.authorization === null ? {} : { authorization: caller.authorization };
  const path = `dadi/v1/chunk-tables/${digest}?${query}`;
  try {
    const { response, host } = await relay.ask({
      ...{ method: 'GET', path, headers, lane: 'small', repository, signal: request.signal },
    });
    if (response.statusCode !== 200 && response.statusCode !== 202) {
      discard(response.body);
      return { kind: 'none' };
    }
    const context = { host, repository, reference: digest };
    const bytes = await readUpTo(response.body, MAX_CHUNK_TABLE_BYTES, context);
    rights.grant(caller, target, digest);
    // Its chunks are asked for in the name of whoever was let in last.
    if (caller.authorization !== null) credentials.remember(registry, repository, caller.authorization);
    if (response.statusCode === 202) return comingAnswer(bytes, host);
    const named = contentDigest(response);
    if (named !== null && !matchesDigest(bytes, named)) {
      throw new FormatError('ERR_CHUNK_TABLE_CORRUPT', 'the chunk table was changed on its way');
    }
    const found = { table: decodeChunkTable(bytes), isProven: false };
    if (known.table(digest)?.isProven !== true) known.putTable(digest, found);
    return { kind: 'whole', known: found };
  } catch {
    request.signal.throwIfAborted();
    // The blob itself is asked for next: what is wrong shows there.
    return { kind: 'none' };
  }
}

function comingAnswer(bytes: Buffer, host: string): TableAnswer {
  const { sizeBytes, digests } = comingSchema.parse(JSON.parse(bytes.toString()));
  if (sizeBytes === null) return { kind: 'waiting' };
  return { kind: 'coming', host, chunks: { sizeBytes, digests: Buffer.from(digests, 'base64') } };
}

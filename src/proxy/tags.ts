import type { Logger } from 'pino';
import { RegistryError } from '../oci/errors.ts';
import type { Catalog } from '../store/catalog.ts';
import { type Answer, jsonAnswer, type ProxyRequest } from './answer.ts';
import { warningHeader } from './manifest-answer.ts';
import type { Target } from './upstreams.ts';

/**
 * GET of a repository's tags (distribution-spec, "Listing Tags"): upstream's, or if it cannot be asked those
 * that were pulled through here.
 */
export async function answerTags(
  catalog: Catalog,
  target: Target,
  name: string,
  { query, signal }: ProxyRequest,
  log: Logger,
): Promise<Answer> {
  const { where, client } = target;
  let warning: Record<string, string> = {};
  let tags: readonly string[];
  try {
    tags = (await client.tags(where.repository, { signal })).toSorted(byBytes);
  } catch (error) {
    tags = await catalog.tags(where);
    const isOutage = error instanceof RegistryError && error.code !== 'ERR_REGISTRY_NOT_FOUND';
    if (!isOutage || tags.length === 0) throw error;
    log.warn({ err: error, ...where }, 'tags are those of the cache');
    warning = warningHeader(
      `${where.upstream} cannot be asked (${error.code}); these are the tags kept here`,
    );
  }
  const { page, next } = pageOf(tags, query);
  const link = next === null ? {} : { link: `</v2/${name}/tags/list?${next}>; rel="next"` };
  return jsonAnswer({ name, tags: page }, { ...warning, ...link });
}

/** Tags after `last`, at most `n`; `next` is the query of what follows. */
function pageOf(
  tags: readonly string[],
  query: URLSearchParams,
): { page: readonly string[]; next: string | null } {
  const last = query.get('last');
  const after = last === null ? tags : tags.filter((tag) => byBytes(tag, last) > 0);
  const text = query.get('n') ?? '';
  const limit = /^\d+$/.test(text) ? Number(text) : after.length;
  const page = after.slice(0, limit);
  const end = page.at(-1);
  if (end === undefined || page.length === after.length) return { page, next: null };
  const next = new URLSearchParams({ n: text, last: end });
  const namespace = query.get('ns');
  if (namespace !== null) next.set('ns', namespace);
  return { page, next: next.toString() };
}

/** Tags are ASCII: the order of code units is that of bytes. */
function byBytes(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

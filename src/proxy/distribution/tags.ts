import type { Logger } from 'pino';
import { RegistryError } from '../../oci/errors.ts';
import { isTag } from '../../oci/reference.ts';
import { type Answer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import type { Catalog } from '../../store/catalog.ts';
import { VERDICTS } from '../content/manifests.ts';
import type { Target } from '../upstream/upstreams.ts';
import { warningHeader } from './manifest-answer.ts';
import { byBytes, linkHeader, type Page, type PageRequest, pageOf, readPage } from './paging.ts';

/** What upstream is asked for at once. */
const MAX_PAGE_TAGS = 1000;

/**
 * GET of a repository's tags (distribution-spec, "Listing Tags"): upstream's, or if it cannot be asked those
 * that were pulled through here. Those of converted images are not among them: nobody has pushed them.
 * @throws RequestError PAGINATION_NUMBER_INVALID; RegistryError
 */
export async function answerTags(
  catalog: Catalog,
  target: Target,
  name: string,
  { query, signal }: ServedRequest,
  log: Logger,
): Promise<Answer> {
  const asked = readPage(query);
  const answer = ({ entries, next }: Page<string>, headers: Record<string, string> = {}) =>
    jsonAnswer({ name, tags: entries }, { ...headers, ...linkHeader(`/v2/${name}/tags/list`, query, next) });
  try {
    return answer(await upstreamPage(target, asked, signal));
  } catch (error) {
    if (!(error instanceof RegistryError) || VERDICTS.has(error.code)) throw error;
    const tags = (await catalog.tags(target.where)).filter(isTag).toSorted(byBytes);
    if (tags.length === 0) throw error;
    log.warn({ err: error, ...target.where }, 'tags are those of the cache');
    const text = `${target.where.upstream} cannot be asked (${error.code}); these are the tags kept here`;
    return answer(pageOf(tags, self, asked), warningHeader(text));
  }
}

/**
 * A page of upstream's tags. One page of upstream's is all that is fetched for it if upstream pages as the spec says, in
 * whatever order it holds for lexical; else its whole list.
 */
async function upstreamPage(
  { where, client }: Target,
  asked: PageRequest,
  signal: AbortSignal,
): Promise<Page<string>> {
  const { limit, last } = asked;
  const all = async () => (await client.tags(where.repository, { signal })).toSorted(byBytes);
  if (limit === null) return pageOf(await all(), self, asked);
  // Of none, too, upstream is asked: there may be no such repository.
  const n = Math.min(Math.max(limit, 1), MAX_PAGE_TAGS);
  const { tags, nextLast } = await client.tagsPage(where.repository, { n, last, signal });
  if (limit === 0) return { entries: [], next: null };
  const isPaged = tags.length <= n && (nextLast === null || nextLast === tags.at(-1));
  if (isPaged && !tags.some((tag) => isBefore(tag, last))) {
    const isAll = last === null && nextLast === null;
    return { entries: isAll ? tags.toSorted(byBytes) : tags, next: nextLast };
  }
  return pageOf(nextLast === null ? tags.toSorted(byBytes) : await all(), self, { limit: n, last });
}

function self(tag: string): string {
  return tag;
}

/** Whether a tag stands before `last`, or is it, in each of the orders that registries call lexical. */
function isBefore(tag: string, last: string | null): boolean {
  return last !== null && byBytes(tag, last) <= 0 && byBytes(tag.toLowerCase(), last.toLowerCase()) <= 0;
}

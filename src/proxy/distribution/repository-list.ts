import { type Answer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import type { RepositoryName } from '../../store/catalog.ts';
import { byBytes, linkHeader, pageOf, readPage } from './paging.ts';

const MAX_PAGE_NAMES = 1000;

/**
 * GET /v2/_catalog, which is Docker's and not the spec's: what is kept here, by the names that a client must ask for.
 * With `ns`, those of that upstream; else the default upstream's by their own names, the others' behind the upstream's.
 * @throws RequestError PAGINATION_NUMBER_INVALID
 */
export function answerRepositories(
  kept: readonly RepositoryName[],
  defaultUpstream: string,
  { query }: ServedRequest,
): Answer {
  const { limit, last } = readPage(query);
  const names = namesOf(kept, defaultUpstream, query.get('ns')).toSorted(byBytes);
  const asked = { limit: Math.min(limit ?? MAX_PAGE_NAMES, MAX_PAGE_NAMES), last };
  const { entries, next } = pageOf(names, (name) => name, asked);
  return jsonAnswer({ repositories: entries }, linkHeader('/v2/_catalog', query, next));
}

function namesOf(
  kept: readonly RepositoryName[],
  defaultUpstream: string,
  namespace: string | null,
): string[] {
  if (namespace !== null) {
    return kept.filter(({ upstream }) => upstream === namespace).map(({ repository }) => repository);
  }
  return kept.map(({ upstream, repository }) =>
    upstream === defaultUpstream ? repository : `${upstream}/${repository}`,
  );
}

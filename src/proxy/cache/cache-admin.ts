import { type Digest, isDigest } from '../../oci/digest.ts';
import { isTag } from '../../oci/reference.ts';
import { type Answer, jsonAnswer } from '../../oci/serving/answer.ts';
import { parsePathDigest } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { Catalog, RepositoryName } from '../../store/catalog.ts';
import type { UseRecorder } from '../../store/use-recorder.ts';
import type { Upstreams } from '../upstream/upstreams.ts';
import type { GarbageCollector } from './garbage-collector.ts';

const DEFAULT_PAGE = 100;
const MAX_PAGE = 1000;

/** What operators see and change of the cache. */
export interface CacheAdminParts {
  readonly catalog: Catalog;
  readonly collector: GarbageCollector;
  readonly recorder: UseRecorder;
  readonly upstreams: Upstreams;
  readonly profile: string;
}

/** POST /dadi/v1/gc[?dry-run] */
export async function answerGc({ collector }: CacheAdminParts, query: URLSearchParams): Promise<Answer> {
  return jsonAnswer(await collector.collect({ dryRun: query.has('dry-run') }));
}

/**
 * GET /dadi/v1/cache[?n=N&last=UPSTREAM/REPOSITORY]: how much is kept, and the repositories, a page at a time.
 * GET /dadi/v1/cache?repository=UPSTREAM/REPOSITORY: that repository's images.
 * @throws RequestError PAGINATION_NUMBER_INVALID, NAME_UNKNOWN, NAME_INVALID
 */
export async function answerCache(parts: CacheAdminParts, query: URLSearchParams): Promise<Answer> {
  const { catalog, recorder } = parts;
  await recorder.flush();
  const repository = query.get('repository');
  if (repository !== null) return answerImages(parts, whereOf(parts, repository));
  const n = query.get('n') ?? String(DEFAULT_PAGE);
  if (!/^[1-9]\d{0,3}$/.test(n) || Number(n) > MAX_PAGE) {
    throw new RequestError('PAGINATION_NUMBER_INVALID', `n is ${n}; write 1 to ${MAX_PAGE}`);
  }
  const last = query.get('last');
  const found = await catalog.content.repositories(last === null ? null : splitName(last), Number(n) + 1);
  const page = found.slice(0, Number(n));
  const end = found.length > page.length ? page.at(-1) : undefined;
  const { count, sizeBytes } = await catalog.blobs.totals();
  return jsonAnswer({
    blobs: count,
    bytes: sizeBytes,
    repositories: page.map(({ usedAtMs, ...rest }) => ({ ...rest, usedAt: time(usedAtMs) })),
    next: end === undefined ? null : `${end.upstream}/${end.repository}`,
  });
}

async function answerImages({ catalog, profile }: CacheAdminParts, where: RepositoryName): Promise<Answer> {
  const tags = await catalog.content.tagsOf(where);
  const images = await catalog.content.images(where, profile);
  return jsonAnswer({
    ...where,
    images: images.map(({ digest, mediaType, keptBytes, missingParts, usedAtMs, conversion }) => ({
      ...{ digest, mediaType, keptBytes, missingParts, conversion },
      // Other records than tags have blanks in their names.
      tags: (tags.get(digest) ?? []).filter(isTag),
      usedAt: time(usedAtMs),
    })),
  });
}

/**
 * DELETE /dadi/v1/cache?repository=UPSTREAM/REPOSITORY[&reference=TAG-OR-DIGEST], or ?blob=DIGEST: removes what is
 * kept of it and needed for nothing else, unless it is being read.
 * @throws RequestError NAME_UNKNOWN, NAME_INVALID, MANIFEST_UNKNOWN, BLOB_UNKNOWN, DIGEST_INVALID
 */
export async function answerRemoval(parts: CacheAdminParts, query: URLSearchParams): Promise<Answer> {
  await parts.recorder.flush();
  const blob = query.get('blob');
  const repository = query.get('repository');
  if (blob !== null) return removeAll(parts, [await knownBlob(parts, parsePathDigest(blob))]);
  if (repository === null) throw new RequestError('NAME_INVALID', 'name a repository, or a blob');
  const where = whereOf(parts, repository);
  const reference = query.get('reference');
  if (reference !== null) {
    return removeAll(parts, await unlinkImage(parts, where, await digestOf(parts, where, reference)));
  }
  const { catalog, profile } = parts;
  const orphans = new Set<Digest>();
  for (const { digest } of await catalog.content.images(where, profile)) {
    for (const orphan of await unlinkImage(parts, where, digest)) orphans.add(orphan);
  }
  for (const orphan of await catalog.content.unlink(where, null)) orphans.add(orphan);
  return removeAll(parts, [...orphans]);
}

async function removeAll(
  { collector, catalog }: CacheAdminParts,
  digests: readonly Digest[],
): Promise<Answer> {
  let freedBytes = 0;
  const held: Digest[] = [];
  for (const digest of digests) {
    const freed = await collector.remove(digest);
    if (freed === null) held.push(digest);
    else freedBytes += freed;
  }
  await catalog.content.sweep();
  return jsonAnswer({ removedBlobs: digests.length - held.length, freedBytes, held });
}

/** The repository does not have the image any more, nor what was made of it. Returns what nobody has then. */
async function unlinkImage(parts: CacheAdminParts, where: RepositoryName, digest: Digest): Promise<Digest[]> {
  const { catalog, profile } = parts;
  const converted = (await catalog.conversions.get(digest, profile))?.converted ?? null;
  const orphans: Digest[] = [];
  for (const manifest of converted === null ? [digest] : [digest, converted.digest]) {
    for (const orphan of await catalog.content.unlink(where, manifest)) {
      orphans.push(orphan);
      const isImageOfIndex = orphan !== manifest && (await catalog.manifestMediaType(orphan)) !== null;
      if (isImageOfIndex) orphans.push(...(await unlinkImage(parts, where, orphan)));
    }
  }
  return orphans;
}

async function knownBlob({ catalog }: CacheAdminParts, digest: Digest): Promise<Digest> {
  if ((await catalog.blobs.get(digest)) === null) {
    throw new RequestError('BLOB_UNKNOWN', `${digest} is not kept here`);
  }
  return digest;
}

async function digestOf(
  { catalog }: CacheAdminParts,
  where: RepositoryName,
  reference: string,
): Promise<Digest> {
  const digest = isDigest(reference) ? reference : ((await catalog.tag(where, reference))?.digest ?? null);
  if (digest === null || !(await catalog.isLinked(where, digest))) {
    const name = `${where.upstream}/${where.repository}`;
    throw new RequestError('MANIFEST_UNKNOWN', `${name} has no ${reference} here; dadi cache ls ${name}`);
  }
  return digest;
}

function whereOf({ upstreams }: CacheAdminParts, name: string): RepositoryName {
  return upstreams.choose(name, null).where;
}

function splitName(name: string): RepositoryName {
  const slash = name.indexOf('/');
  return { upstream: name.slice(0, slash), repository: name.slice(slash + 1) };
}

function time(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}

import type { Logger } from 'pino';
import { type Answer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { type DistributionPath, parseDistributionPath } from '../../oci/serving/paths.ts';
import type { Catalog } from '../../store/catalog.ts';
import type { Access, Claim } from '../access/access.ts';
import type { Blobs } from '../content/blobs.ts';
import type { Manifests } from '../content/manifests.ts';
import type { Upstreams } from '../upstream/upstreams.ts';
import { answerBlob } from './blob-answer.ts';
import { answerManifest, type Conversion } from './manifest-answer.ts';
import type { ReferrerLists } from './referrer-lists.ts';
import { answerReferrers } from './referrers.ts';
import { answerRepositories } from './repository-list.ts';
import { answerTags } from './tags.ts';

/** What the Distribution API is answered from. */
export interface DistributionParts {
  readonly access: Access;
  readonly upstreams: Upstreams;
  readonly manifests: Manifests;
  readonly blobs: Blobs;
  readonly catalog: Catalog;
  readonly referrers: ReferrerLists;
  /** Null where nothing is converted. */
  readonly conversion: Conversion | null;
  readonly log: Logger;
}

/**
 * Answers a GET or HEAD request below `/v2/`: the pull side of the Distribution spec v1.1.
 * @throws RequestError, RegistryError, StoreError; the request's signal's reason
 */
export async function answerDistribution(parts: DistributionParts, request: ServedRequest): Promise<Answer> {
  const { access } = parts;
  await access.admit(request);
  const path = parseDistributionPath(request.pathname);
  request.notes.kind = path.kind;
  if (path.kind === 'base') {
    access.base(request);
    return jsonAnswer({});
  }
  const { upstreams, manifests, blobs, referrers, conversion, catalog, log } = parts;
  if (path.kind === 'repositories') {
    access.mayListAll();
    return answerRepositories(await catalog.repositories(), upstreams.defaultName, request);
  }
  const chosen = upstreams.choose(path.name, request.query.get('ns'));
  request.notes.upstream = chosen.where.upstream;
  request.notes.repository = chosen.where.repository;
  request.notes.reference = referenceOf(path);
  const asked = { name: path.name, target: chosen, claim: claimOf(path, conversion) };
  const target = await access.authorise(asked, request);
  switch (path.kind) {
    case 'manifest':
      return answerManifest(manifests, conversion, target, path.reference, request);
    case 'blob':
      return answerBlob(blobs, target, path.digest, request);
    case 'referrers':
      return answerReferrers(referrers, conversion?.images ?? null, target, path.name, path.digest, request);
    case 'tags':
      return answerTags(catalog, target, path.name, request, log);
  }
}

function referenceOf(path: DistributionPath): string | undefined {
  if (path.kind === 'blob' || path.kind === 'referrers') return path.digest;
  if (path.kind !== 'manifest') return undefined;
  return path.reference.kind === 'tag' ? path.reference.tag : path.reference.digest;
}

function claimOf(
  path: Exclude<DistributionPath, { kind: 'base' | 'repositories' }>,
  conversion: Conversion | null,
): Claim {
  switch (path.kind) {
    case 'manifest': {
      const { reference } = path;
      if (reference.kind === 'digest') return { kind: 'manifest', reference: reference.digest };
      // Upstream does not know ours: who may read the original may read what is made of it.
      const originalTag = conversion?.images.originalTag(reference.tag) ?? reference.tag;
      return { kind: 'manifest', reference: originalTag };
    }
    case 'blob':
      return { kind: 'blob', digest: path.digest };
    case 'referrers':
      return { kind: 'manifest', reference: path.digest };
    case 'tags':
      return { kind: 'repository' };
  }
}

import { type Digest, isDigest } from '../../oci/digest.ts';
import type { Answer, ServedRequest } from '../../oci/serving/answer.ts';
import { parseDistributionPath } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { answerBlob, type BlobRouteParts } from './blob-route.ts';
import type { Callers } from './callers.ts';
import type { DirectHosts } from './direct-hosts.ts';
import { type MirrorTarget, targetOf } from './mirror-target.ts';

/** Where overlaybd's `p2pConfig.address` leads to: the URL that it would have asked follows. */
export const P2P_PATH = '/dadip2p';

export interface P2pParts extends BlobRouteParts {
  readonly callers: Callers;
  readonly direct: DirectHosts;
  /** Of the proxies: what is asked of them is in their own names for registries. */
  readonly proxyHosts: ReadonlySet<string>;
  /** Of requests to the proxies that name no registry. */
  readonly defaultRegistry: string;
}

/** Names of Docker Hub's registry, in place of the one that references have. */
const HUB_HOSTS: ReadonlySet<string> = new Set(['registry-1.docker.io', 'index.docker.io']);
/** In URLs of blobs on storage, as registries make them: `…/sha256/ab/ab12…/data`. */
const DIGEST_IN_PATH = /(?:^|\/)sha256(?::|%3A|\/(?:[0-9a-f]{2}\/)?)([0-9a-f]{64})(?=\/|$)/i;

/**
 * GET of a part of a blob, as stock overlaybd asks its P2P proxy: by the blob's URL, at a registry or, signed, on its
 * storage. What the proxies have comes through the host's chunk cache and the mesh, by the digest in the path, for whom
 * they let read it. All else, and what they fail to give, comes from the URL itself, if its host is one of those that
 * may be asked directly.
 * @throws RequestError NAME_INVALID for what names no blob, DENIED
 */
export async function answerP2p(parts: P2pParts, request: ServedRequest): Promise<Answer> {
  const { direct, callers } = parts;
  const url = urlOf(request);
  const blob = blobOf(parts, url);
  if (blob === null) return direct.answer(url, request);
  const { target, digest } = blob;
  request.notes.reference = digest;
  request.notes.upstream = target.registry;
  request.notes.repository = target.repository;
  try {
    const asked = { target, caller: callers.callerOf(request.headers), request };
    const answer = await answerBlob(parts, asked, digest, 'as parts');
    if (answer.status < 400 || !direct.allows(url)) return answer;
    if (answer.body !== null && !Buffer.isBuffer(answer.body)) await answer.body.close();
  } catch (error) {
    request.signal.throwIfAborted();
    if (error instanceof RequestError && error.distributionCode === 'RANGE_INVALID') throw error;
    if (!direct.allows(url)) throw error;
  }
  return direct.answer(url, request);
}

function urlOf({ pathname, search }: ServedRequest): URL {
  const text = `${pathname.slice(P2P_PATH.length + 1)}${search}`;
  const url = /^https?:\/\//i.test(text) && URL.canParse(text) ? new URL(text) : null;
  if (url === null || url.username !== '' || url.password !== '') {
    throw new RequestError('NAME_INVALID', 'the URL of a blob must follow, with its scheme');
  }
  if (!DIGEST_IN_PATH.test(url.pathname)) {
    throw new RequestError(
      'NAME_INVALID',
      'only blobs are given here, and this URL has no digest in its path',
    );
  }
  return url;
}

/** Null for a URL that is not a registry's: whose blob it is, is not known. */
function blobOf(
  { proxyHosts, defaultRegistry }: P2pParts,
  url: URL,
): { readonly target: MirrorTarget; readonly digest: Digest } | null {
  const path = parsed(url.pathname);
  if (path?.kind !== 'blob' || !isDigest(path.digest)) return null;
  const named = url.searchParams.get('ns');
  const target = proxyHosts.has(url.host)
    ? targetOf(path.name, named, defaultRegistry)
    : targetOf(path.name, HUB_HOSTS.has(url.host) ? 'docker.io' : url.host, defaultRegistry);
  return { target, digest: path.digest };
}

function parsed(pathname: string): ReturnType<typeof parseDistributionPath> | null {
  try {
    return parseDistributionPath(pathname);
  } catch {
    return null;
  }
}

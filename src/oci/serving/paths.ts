import { type Digest, isDigest } from '../digest.ts';
import { isTag } from '../reference.ts';
import { RequestError } from './request-error.ts';

/** Tag or digest, as a path's last part names a manifest. */
export type ManifestReference =
  | { readonly kind: 'tag'; readonly tag: string }
  | { readonly kind: 'digest'; readonly digest: Digest };

/**
 * A path of the Distribution API (distribution-spec, "Endpoints", the pull side). `name` may still begin with
 * an upstream's name.
 */
export type DistributionPath =
  | { readonly kind: 'base' }
  /** Docker's list of repositories, which the spec reserves. */
  | { readonly kind: 'repositories' }
  | { readonly kind: 'manifest'; readonly name: string; readonly reference: ManifestReference }
  | { readonly kind: 'blob'; readonly name: string; readonly digest: Digest }
  | { readonly kind: 'tags'; readonly name: string }
  | { readonly kind: 'referrers'; readonly name: string; readonly digest: Digest };

const ROUTE =
  /^\/v2\/(?<name>.+)\/(?:(?<endpoint>manifests|blobs|referrers)\/(?<reference>[^/]+)|tags\/list)$/;

/** The push side's own: no upload can be begun here. */
const UPLOAD = /^\/v2\/.+\/blobs\/uploads(?:\/[^/]*)?$/;

/**
 * Reads the path of a GET or HEAD request.
 * @throws RequestError NAME_INVALID (badly encoded), DIGEST_INVALID, MANIFEST_UNKNOWN (no such tag can be),
 *   NAME_UNKNOWN, BLOB_UPLOAD_UNKNOWN
 */
export function parseDistributionPath(pathname: string): DistributionPath {
  const path = decodePath(pathname);
  if (path === '/v2' || path === '/v2/') return { kind: 'base' };
  if (path === '/v2/_catalog') return { kind: 'repositories' };
  if (UPLOAD.test(path)) throw new RequestError('BLOB_UPLOAD_UNKNOWN', 'this is a mirror: it has no uploads');
  const groups = ROUTE.exec(path)?.groups;
  if (groups === undefined) throw new RequestError('NAME_UNKNOWN', `${quote(path)} is not served here`);
  const { name = '', endpoint, reference = '' } = groups;
  switch (endpoint) {
    case 'manifests':
      return { kind: 'manifest', name, reference: parseReference(reference) };
    case 'blobs':
      return { kind: 'blob', name, digest: parsePathDigest(reference) };
    case 'referrers':
      return { kind: 'referrers', name, digest: parsePathDigest(reference) };
    default:
      return { kind: 'tags', name };
  }
}

/** What a 404 of upstream's means for the request that has this path. */
export function unknownCode(pathname: string): 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN' {
  switch (ROUTE.exec(pathname)?.groups?.['endpoint']) {
    case 'manifests':
      return 'MANIFEST_UNKNOWN';
    case 'blobs':
      return 'BLOB_UNKNOWN';
    default:
      return 'NAME_UNKNOWN';
  }
}

/** @throws RequestError DIGEST_INVALID */
export function parsePathDigest(text: string): Digest {
  if (!isDigest(text)) throw new RequestError('DIGEST_INVALID', `${quote(text)} is not a digest`);
  return text;
}

function parseReference(text: string): ManifestReference {
  if (text.includes(':')) return { kind: 'digest', digest: parsePathDigest(text) };
  if (!isTag(text)) throw new RequestError('MANIFEST_UNKNOWN', `${quote(text)} is not a tag`);
  return { kind: 'tag', tag: text };
}

/** @throws RequestError NAME_INVALID */
export function decodePath(pathname: string): string {
  try {
    return decodeURIComponent(pathname);
  } catch {
    throw new RequestError('NAME_INVALID', 'the path is not well encoded');
  }
}

/** A client's own words, as far as they help to find the mistake. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 160 ? `${text.slice(0, 160)}…` : text);
}

import { bareMediaType, MANIFEST_ACCEPT } from '../../oci/media-types.ts';

/**
 * What a client takes of the four kinds of manifests that registries tell apart (OCI and Docker, image and index); null
 * if that decides nothing: it takes all four, or whatever comes, or none that we know.
 */
export function acceptedKinds(acceptHeader: string | undefined): readonly string[] | null {
  const ranges = (acceptHeader ?? '').split(',').filter(isWanted).map(bareMediaType);
  if (ranges.includes('*/*') || ranges.includes('application/*')) return null;
  const kinds = MANIFEST_ACCEPT.filter((kind) => ranges.includes(kind));
  return kinds.length === 0 || kinds.length === MANIFEST_ACCEPT.length ? null : kinds;
}

/** Whether a manifest may be given to a client that takes `kinds`. One of no known kind is given to everybody. */
export function isAccepted(mediaType: string, kinds: readonly string[] | null): boolean {
  return kinds === null || kinds.includes(mediaType) || !MANIFEST_ACCEPT.includes(mediaType);
}

/** RFC 9110, 12.4.2: a weight of 0 is a refusal. */
function isWanted(range: string): boolean {
  return !/;\s*q\s*=\s*0(?:\.0*)?\s*(?:;|$)/i.test(range);
}

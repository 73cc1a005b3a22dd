import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Descriptor, MAX_MANIFEST_BYTES } from '../../oci/manifest.ts';
import { OCI_INDEX } from '../../oci/media-types.ts';
import { type Answer, bufferAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { readManifest } from '../content/manifests.ts';
import type { ConvertedImages } from '../conversion/converted.ts';
import type { Target } from '../upstream/upstreams.ts';
import { warningHeader } from './manifest-answer.ts';
import { byBytes, linkHeader, type Page, type PageRequest, pageOf, readPage } from './paging.ts';
import { indexOf, type ReferrerLists } from './referrer-lists.ts';

/** Of the descriptors of one page: with what stands around them, clients must take it as an index. */
const MAX_PAGE_BYTES = MAX_MANIFEST_BYTES - 1024;

/**
 * GET of a digest's referrers (distribution-spec, "Listing Referrers"): upstream's, and the converted image.
 * Never 404: what nothing refers to has an empty list.
 * @throws RequestError PAGINATION_NUMBER_INVALID
 */
export async function answerReferrers(
  lists: ReferrerLists,
  images: ConvertedImages | null,
  target: Target,
  name: string,
  digest: Digest,
  { query, signal }: ServedRequest,
): Promise<Answer> {
  const asked = readPage(query);
  const artifactType = query.get('artifactType') || null;
  const own = await convertedReferrer(images, target, digest);
  const upstream = await unlessAborted(lists.of(target, digest), signal);
  const known = new Set(own.map((descriptor) => descriptor.digest));
  const all = [...own, ...upstream.descriptors.filter((descriptor) => !known.has(descriptor.digest))];
  const { entries, next } = page(
    artifactType === null ? all : all.filter((descriptor) => descriptor.artifactType === artifactType),
    asked,
  );
  return bufferAnswer(200, Buffer.from(JSON.stringify(indexOf(entries))), {
    'content-type': OCI_INDEX,
    ...(artifactType === null ? {} : { 'oci-filters-applied': 'artifactType' }),
    ...(upstream.warning === null ? {} : warningHeader(upstream.warning)),
    ...linkHeader(`/v2/${name}/referrers/${digest}`, query, next),
  });
}

/** All as they are, if they fit and no part was asked for; else by digest, so that pages hold when the list changes. */
function page(descriptors: readonly Descriptor[], asked: PageRequest): Page<Descriptor> {
  const isWhole = asked.limit === null && asked.last === null;
  if (isWhole && fitting(descriptors) === descriptors.length) return { entries: descriptors, next: null };
  const digestOf = (descriptor: Descriptor) => descriptor.digest;
  const sorted = descriptors.toSorted((a, b) => byBytes(a.digest, b.digest));
  const { entries } = pageOf(sorted, digestOf, asked);
  return pageOf(sorted, digestOf, { ...asked, limit: Math.min(fitting(entries), asked.limit ?? Infinity) });
}

/** How many of them, from the first on, a page can hold: one at least. */
function fitting(descriptors: readonly Descriptor[]): number {
  let bytes = 0;
  for (const [at, descriptor] of descriptors.entries()) {
    bytes += Buffer.byteLength(JSON.stringify(descriptor)) + 1;
    if (bytes > MAX_PAGE_BYTES && at > 0) return at;
  }
  return descriptors.length;
}

async function convertedReferrer(
  images: ConvertedImages | null,
  target: Target,
  digest: Digest,
): Promise<Descriptor[]> {
  const served = (await images?.byOriginal(target, digest)) ?? null;
  const manifest = served === null ? null : readManifest(served);
  if (served === null || manifest === null) return [];
  const { artifactType, annotations } = manifest;
  return [
    {
      mediaType: served.mediaType,
      digest: served.digest,
      size: served.bytes.length,
      ...(artifactType === null ? {} : { artifactType }),
      annotations,
    },
  ];
}

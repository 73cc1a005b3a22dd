import { unlessAborted } from '../../format/unless-aborted.ts';
import { RegistryError } from '../../oci/errors.ts';
import { type Answer, bufferAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { conditionalAnswer, etagOf } from '../../oci/serving/conditions.ts';
import type { ManifestReference } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { Manifests, ServedManifest } from '../content/manifests.ts';
import type { ConversionQueue } from '../conversion/conversion-queue.ts';
import type { ConvertedImages } from '../conversion/converted.ts';
import type { Target } from '../upstream/upstreams.ts';
import { acceptedKinds, isAccepted } from './negotiation.ts';

/** What the proxy does with images beyond handing them on. */
export interface Conversion {
  readonly queue: ConversionQueue;
  readonly images: ConvertedImages;
}

/**
 * GET or HEAD of a manifest (distribution-spec, "Pulling manifests"): upstream's bytes, by digest whatever the client
 * accepts, and for `TAG_obd` ours. What is got is queued for conversion.
 */
export async function answerManifest(
  manifests: Manifests,
  conversion: Conversion | null,
  target: Target,
  reference: ManifestReference,
  { method, headers, signal, notes }: ServedRequest,
): Promise<Answer> {
  const kinds = acceptedKinds(headers.accept);
  const served = await unlessAborted(find(manifests, conversion, target, reference, kinds), signal);
  notes.source = served.source;
  if (method === 'GET') await conversion?.queue.offer(target.where, served);
  return conditionalAnswer(headers, served.digest) ?? manifestAnswer(served);
}

function find(
  manifests: Manifests,
  conversion: Conversion | null,
  target: Target,
  reference: ManifestReference,
  kinds: readonly string[] | null,
): Promise<ServedManifest> {
  if (reference.kind === 'digest') return manifests.byDigest(target, reference.digest);
  const originalTag = conversion?.images.originalTag(reference.tag) ?? null;
  if (conversion !== null && originalTag !== null) return conversion.images.byTag(target, originalTag);
  return accepted(manifests, target, reference.tag, kinds);
}

/**
 * What upstream has under a tag, as it is. Only where the client does not take that kind is upstream asked what it has
 * for such a client: there are registries that then give the one image out of an index, or refuse.
 */
async function accepted(
  manifests: Manifests,
  target: Target,
  tag: string,
  kinds: readonly string[] | null,
): Promise<ServedManifest> {
  const served = await manifests.byTag(target, tag);
  if (isAccepted(served.mediaType, kinds)) return served;
  try {
    return await manifests.byTag(target, tag, kinds);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    throw new RequestError(
      'MANIFEST_UNKNOWN',
      `${tag} is of type ${served.mediaType}, which the request does not accept; upstream has no other form of it`,
      { detail: { mediaType: served.mediaType } },
    );
  }
}

/** Docker's registry tries to make a manifest of its first kind then; what it cannot make, it calls a bad request. */
function isRefusal(error: unknown): boolean {
  if (!(error instanceof RegistryError)) return false;
  const isStatus = error.code === 'ERR_REGISTRY_STATUS' && (error.status ?? 0) < 500;
  return isStatus || error.code === 'ERR_REGISTRY_NOT_FOUND';
}

function manifestAnswer({ digest, mediaType, bytes, warning }: ServedManifest): Answer {
  return bufferAnswer(200, bytes, {
    'content-type': mediaType,
    'docker-content-digest': digest,
    etag: etagOf(digest),
    vary: 'accept',
    ...(warning === null ? {} : warningHeader(warning)),
  });
}

/** distribution-spec, "Warnings": code 299, agent unknown, at most 4096 bytes of quoted ASCII. */
export function warningHeader(text: string): Record<string, string> {
  const quoted = text
    .replace(/[^ -~]/g, '?')
    .replace(/["\\]/g, "'")
    .slice(0, 4000);
  return { warning: `299 - "${quoted}"` };
}

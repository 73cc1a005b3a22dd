import { unlessAborted } from '../format/unless-aborted.ts';
import { type Answer, bufferAnswer, type ProxyRequest } from './answer.ts';
import type { ConversionQueue } from './conversion-queue.ts';
import type { ConvertedImages } from './converted.ts';
import type { Manifests, ServedManifest } from './manifests.ts';
import type { ManifestReference } from './paths.ts';
import type { Target } from './upstreams.ts';

/** What the proxy does with images beyond handing them on. */
export interface Conversion {
  readonly queue: ConversionQueue;
  readonly images: ConvertedImages;
}

/**
 * GET or HEAD of a manifest (distribution-spec, "Pulling manifests"): upstream's bytes, whatever the client
 * accepts, and for `TAG_obd` ours. What is got is queued for conversion.
 */
export async function answerManifest(
  manifests: Manifests,
  conversion: Conversion | null,
  target: Target,
  reference: ManifestReference,
  { method, signal }: ProxyRequest,
): Promise<Answer> {
  const served = await unlessAborted(find(manifests, conversion, target, reference), signal);
  if (method === 'GET') await conversion?.queue.offer(target.where, served);
  return manifestAnswer(served);
}

function find(
  manifests: Manifests,
  conversion: Conversion | null,
  target: Target,
  reference: ManifestReference,
): Promise<ServedManifest> {
  if (reference.kind === 'digest') return manifests.byDigest(target, reference.digest);
  const originalTag = conversion?.images.originalTag(reference.tag) ?? null;
  if (conversion !== null && originalTag !== null) return conversion.images.byTag(target, originalTag);
  return manifests.byTag(target, reference.tag);
}

function manifestAnswer({ digest, mediaType, bytes, warning }: ServedManifest): Answer {
  return bufferAnswer(200, bytes, {
    'content-type': mediaType,
    'docker-content-digest': digest,
    etag: `"${digest}"`,
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

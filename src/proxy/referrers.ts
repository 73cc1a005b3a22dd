import type { Logger } from 'pino';
import type { Digest } from '../oci/digest.ts';
import { RegistryError } from '../oci/errors.ts';
import type { Descriptor } from '../oci/manifest.ts';
import { OCI_INDEX } from '../oci/media-types.ts';
import type { RepositoryName } from '../store/catalog.ts';
import { type Answer, bufferAnswer, type ProxyRequest } from './answer.ts';
import type { ConvertedImages } from './converted.ts';
import { warningHeader } from './manifest-answer.ts';
import { readManifest } from './manifests.ts';
import type { Outages } from './outages.ts';
import type { Target } from './upstreams.ts';

/**
 * GET of a digest's referrers (distribution-spec, "Listing Referrers"): upstream's, and the converted image.
 * Never 404: what nothing refers to has an empty list.
 */
export async function answerReferrers(
  images: ConvertedImages | null,
  target: Target,
  digest: Digest,
  { query, signal }: ProxyRequest,
  outages: Outages,
  log: Logger,
): Promise<Answer> {
  const artifactType = query.get('artifactType');
  const own = await convertedReferrer(images, target.where, digest);
  const upstream = await upstreamReferrers(target, digest, outages, signal, log);
  const known = new Set(own.map((descriptor) => descriptor.digest));
  const all = [...own, ...upstream.descriptors.filter((descriptor) => !known.has(descriptor.digest))];
  const manifests =
    artifactType === null ? all : all.filter((descriptor) => descriptor.artifactType === artifactType);
  const body = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }));
  return bufferAnswer(200, body, {
    'content-type': OCI_INDEX,
    ...(artifactType === null ? {} : { 'oci-filters-applied': 'artifactType' }),
    ...(upstream.warning === null ? {} : warningHeader(upstream.warning)),
  });
}

async function convertedReferrer(
  images: ConvertedImages | null,
  where: RepositoryName,
  digest: Digest,
): Promise<Descriptor[]> {
  const served = (await images?.byOriginal(where, digest)) ?? null;
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

async function upstreamReferrers(
  target: Target,
  digest: Digest,
  outages: Outages,
  signal: AbortSignal,
  log: Logger,
): Promise<{ descriptors: Descriptor[]; warning: string | null }> {
  const { where, client } = target;
  try {
    const ask = () => client.referrers(where.repository, digest, { signal });
    return { descriptors: await outages.ask(target, ask), warning: null };
  } catch (error) {
    if (!(error instanceof RegistryError)) throw error;
    if (error.code === 'ERR_REGISTRY_NOT_FOUND') return { descriptors: [], warning: null };
    log.warn({ err: error, ...where, digest }, 'referrers without those of upstream');
    return { descriptors: [], warning: `${where.upstream} cannot be asked (${error.code})` };
  }
}

import { type Digest, digestOf, matchesDigest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import { MAX_MANIFEST_BYTES } from '../../oci/manifest.ts';
import { bareMediaType, isDockerSchema1 } from '../../oci/media-types.ts';
import { contentDigest, contentType } from '../../oci/registry-answers.ts';
import { readUpTo } from '../../oci/registry-http.ts';
import { signedSchema1Payload } from '../../oci/schema1.ts';
import { type Answer, bufferAnswer } from '../../oci/serving/answer.ts';
import { conditionalAnswer, etagOf } from '../../oci/serving/conditions.ts';
import type { ManifestReference } from '../../oci/serving/paths.ts';
import { type Asked, askFor, handBack, type MirrorContext } from './mirror-context.ts';
import { ProxiesAwayError, type RelayedAnswer } from './proxy-relay.ts';
import { answerHeaders } from './relayed-answer.ts';

/** Of a manifest that breaks off, or is not what it should be. */
const TRIES = 3;
const AWAY = '299 - "no dadi proxy can be asked: this is what this host has"';

/** GET or HEAD of a manifest: from a proxy, verified; if none can be asked, by digest what came through here before. */
export async function answerManifest(
  context: MirrorContext,
  asked: Asked,
  reference: ManifestReference,
): Promise<Answer> {
  const { method, headers } = asked.request;
  const name = reference.kind === 'tag' ? reference.tag : reference.digest;
  try {
    for (let tries = 1; ; tries++) {
      const options = { method: method === 'HEAD' ? 'HEAD' : 'GET', lane: 'small', headers } as const;
      const answer = await askFor(context, asked, `manifests/${name}`, options);
      if (method === 'HEAD' || answer.response.statusCode !== 200) return handBack(answer, asked.request);
      try {
        return await verified(context, asked, reference, answer);
      } catch (error) {
        asked.request.signal.throwIfAborted();
        answer.distrust();
        if (tries === TRIES) throw error;
      }
    }
  } catch (error) {
    if (!(error instanceof ProxiesAwayError) || reference.kind === 'tag') throw error;
    const kept = keptManifest(context, asked, reference.digest);
    if (kept === null) throw error;
    return kept;
  }
}

async function verified(
  { known, rights }: MirrorContext,
  { target, caller, request }: Asked,
  reference: ManifestReference,
  { response, host }: RelayedAnswer,
): Promise<Answer> {
  const named = reference.kind === 'digest' ? reference.digest : contentDigest(response);
  const about = { host, repository: target.repository, reference: named };
  const bytes = await readUpTo(response.body, MAX_MANIFEST_BYTES, about);
  const mediaType = contentType(response);
  const signed = isDockerSchema1(bareMediaType(mediaType)) ? (signedSchema1Payload(bytes) ?? bytes) : bytes;
  const digest = named ?? digestOf(bytes);
  if (!matchesDigest(signed, digest)) {
    throw new RegistryError('ERR_REGISTRY_DIGEST', about, `the proxy sent ${digestOf(signed)}`);
  }
  known.putManifest(digest, { mediaType, bytes });
  rights.grant(caller, target, digest);
  request.notes.source = 'upstream';
  return bufferAnswer(200, bytes, answerHeaders(response));
}

function keptManifest(
  { known, rights }: MirrorContext,
  { target, caller, request }: Asked,
  digest: Digest,
): Answer | null {
  const manifest = known.manifest(digest);
  if (manifest === null || !rights.wasGranted(caller, target, digest)) return null;
  request.notes.source = 'cache';
  const decided = conditionalAnswer(request.headers, digest);
  if (decided !== null) return decided;
  return bufferAnswer(200, manifest.bytes, {
    'content-type': manifest.mediaType,
    'docker-content-digest': digest,
    etag: etagOf(digest),
    warning: AWAY,
  });
}

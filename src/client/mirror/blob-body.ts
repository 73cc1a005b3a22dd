import { type BlobRange, downloadFrom } from '../../oci/blob-download.ts';
import { RegistryError } from '../../oci/errors.ts';
import { discard } from '../../oci/registry-http.ts';
import type { BlobBody } from '../../oci/resumed-body.ts';
import type { RelayedAnswer } from './proxy-relay.ts';

/**
 * A proxy's answer to a request for a blob, or for a part of it.
 * @throws RegistryError for an answer that is not that
 */
export function blobBody({ response, host }: RelayedAnswer, range: BlobRange): BlobBody {
  const context = { host, repository: null, reference: null };
  if (response.statusCode >= 300) {
    discard(response.body);
    const message = `the proxy answers ${response.statusCode} in the middle of a blob`;
    throw new RegistryError('ERR_REGISTRY_STATUS', context, message, { status: response.statusCode });
  }
  const { sizeBytes, offsetBytes, body } = downloadFrom(response, range, context);
  if (sizeBytes !== null) return { sizeBytes, offsetBytes, body };
  discard(body);
  throw new RegistryError('ERR_REGISTRY_PROTOCOL', context, 'the proxy does not say how large the blob is');
}

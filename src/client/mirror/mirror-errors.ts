import { SourceError } from '../../format/byte-source.ts';
import { RegistryError } from '../../oci/errors.ts';
import { type ErrorAnswer, errorAnswer, requestErrorAnswer } from '../../oci/serving/error-answer.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { ProxiesAwayError } from './proxy-relay.ts';

/** What clients are told about an error. A 503 sends each of them to its next host. */
export function mirrorErrorAnswer(error: unknown): ErrorAnswer {
  if (error instanceof RequestError) return requestErrorAnswer(error);
  if (error instanceof ProxiesAwayError) return errorAnswer('UNAVAILABLE', error.message);
  if (error instanceof RegistryError || error instanceof SourceError) {
    return errorAnswer('UNAVAILABLE', `the proxy's answer cannot be used: ${error.message}`);
  }
  return errorAnswer('UNKNOWN', "the node's mirror failed: its log says why");
}

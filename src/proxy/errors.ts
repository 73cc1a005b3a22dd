import { RegistryError } from '../oci/errors.ts';
import {
  errorAnswer as answer,
  type ErrorAnswer,
  requestErrorAnswer,
  type UnknownCode,
} from '../oci/serving/error-answer.ts';
import { RequestError } from '../oci/serving/request-error.ts';
import { StoreError } from '../store/errors.ts';

/** An image whose parts do not fit together, found before its conversion. */
export class ConversionInputError extends Error {
  override readonly name = 'ConversionInputError';
  readonly code = 'ERR_PROXY_CONVERSION_INPUT';
}

/** An image that is left as it is because it is small. */
export class ConversionNotWantedError extends Error {
  override readonly name = 'ConversionNotWantedError';
  readonly code = 'ERR_PROXY_CONVERSION_SMALL';

  constructor(layerBytes: number, minImageBytes: number) {
    super(`its layers have ${layerBytes} bytes, and conversion.minImageBytes is ${minImageBytes}`);
  }
}

/** What clients of the proxy are told about an error. */
export function proxyErrorAnswer(error: unknown, unknownCode: UnknownCode): ErrorAnswer {
  if (error instanceof RequestError) return requestErrorAnswer(error);
  if (error instanceof RegistryError) return upstreamAnswer(error, unknownCode);
  if (error instanceof StoreError) {
    const isFull = error.code === 'ERR_STORE_FULL';
    const message = isFull ? "the proxy's disk is full" : 'the proxy cannot store what upstream sent';
    const isLie = error.code === 'ERR_STORE_DIGEST' || error.code === 'ERR_STORE_SIZE';
    if (isLie) return answer('UNKNOWN', `upstream sent other bytes: ${error.message}`, { status: 502 });
    return answer('UNAVAILABLE', message);
  }
  return answer('UNKNOWN', 'the proxy failed: its log says why');
}

function upstreamAnswer(error: RegistryError, unknownCode: UnknownCode): ErrorAnswer {
  switch (error.code) {
    case 'ERR_REGISTRY_NOT_FOUND':
      return answer(unknownCode, `upstream does not have it: ${error.message}`, { isFault: false });
    case 'ERR_REGISTRY_UNAUTHORIZED':
      return answer('DENIED', `upstream refuses: ${error.message}; give the proxy credentials for it`);
    case 'ERR_REGISTRY_RATE_LIMITED': {
      // Not 429: containerd would ask the same host again instead of going on to its next one.
      const seconds = Math.ceil((error.retryAfterMs ?? 60_000) / 1000);
      return answer('UNAVAILABLE', `upstream limits the rate: ${error.message}`, {
        headers: { 'retry-after': String(seconds) },
      });
    }
    case 'ERR_REGISTRY_CREDENTIALS':
      // Names of files and programs are for the log.
      return answer(
        'UNAVAILABLE',
        "the proxy's own credentials for upstream cannot be read: its log says why",
      );
    case 'ERR_REGISTRY_UNREACHABLE':
      return answer('UNAVAILABLE', `upstream cannot be reached: ${error.message}`);
    default:
      return answer('UNKNOWN', `upstream's answer cannot be used: ${error.message}`, { status: 502 });
  }
}

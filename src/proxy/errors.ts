import { type DistributionErrorCode, distributionError, RegistryError } from '../oci/errors.ts';
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

/** A request that has no other answer than one of the Distribution spec's errors. */
export class RequestError extends Error {
  override readonly name = 'RequestError';
  readonly code = 'ERR_PROXY_REQUEST';
  readonly distributionCode: DistributionErrorCode;
  readonly detail: Readonly<Record<string, unknown>> | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    distributionCode: DistributionErrorCode,
    message: string,
    more: {
      readonly detail?: Readonly<Record<string, unknown>>;
      readonly headers?: Readonly<Record<string, string>>;
    } = {},
  ) {
    super(message);
    this.distributionCode = distributionCode;
    this.detail = more.detail ?? null;
    this.headers = more.headers ?? {};
  }
}

/** What a client is told about an error. */
export interface ErrorAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Whether something went wrong here or upstream, as opposed to a request for what is not there. */
  readonly isFault: boolean;
}

/** What a request may ask for in vain. */
type UnknownCode = 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN';

/** `unknownCode` says what was asked for: a registry's 404 need not tell. */
export function errorAnswer(error: unknown, unknownCode: UnknownCode): ErrorAnswer {
  if (error instanceof RequestError) {
    const { detail, headers } = error;
    return answer(error.distributionCode, error.message, { detail, headers, isFault: false });
  }
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

function answer(
  code: DistributionErrorCode,
  message: string,
  more: Partial<Omit<ErrorAnswer, 'body'>> & { detail?: Readonly<Record<string, unknown>> | null } = {},
): ErrorAnswer {
  const { detail = null, status, headers = {}, isFault = true } = more;
  const standard = distributionError(code, message, detail ?? undefined);
  return { status: status ?? standard.status, headers, body: standard.body, isFault };
}

import { type DistributionErrorCode, distributionError } from '../errors.ts';
import type { RequestError } from './request-error.ts';

/** What a client is told about an error. */
export interface ErrorAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Whether something went wrong here or upstream, as opposed to a request for what is not there. */
  readonly isFault: boolean;
}

/** What a request may ask for in vain. */
export type UnknownCode = 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN';

/** What the error of a handler is answered with. `unknownCode` says what was asked for: a registry's 404 need not tell. */
export type ErrorAnswerer = (error: unknown, unknownCode: UnknownCode) => ErrorAnswer;

/** An error of the Distribution spec, with its usual status if `more` gives none. */
export function errorAnswer(
  code: DistributionErrorCode,
  message: string,
  more: Partial<Omit<ErrorAnswer, 'body'>> & { detail?: Readonly<Record<string, unknown>> | null } = {},
): ErrorAnswer {
  const { detail = null, status, headers = {}, isFault = true } = more;
  const standard = distributionError(code, message, detail ?? undefined);
  return { status: status ?? standard.status, headers, body: standard.body, isFault };
}

export function requestErrorAnswer({
  distributionCode,
  message,
  detail,
  headers,
}: RequestError): ErrorAnswer {
  return errorAnswer(distributionCode, message, { detail, headers, isFault: false });
}

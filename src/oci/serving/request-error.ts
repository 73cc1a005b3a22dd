import type { DistributionErrorCode } from '../errors.ts';

/** A request that has no other answer than one of the Distribution spec's errors. */
export class RequestError extends Error {
  override readonly name = 'RequestError';
  readonly code = 'ERR_REQUEST';
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

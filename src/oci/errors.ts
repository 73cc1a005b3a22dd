import { z } from 'zod';

export type OciErrorCode =
  | 'ERR_DIGEST_INVALID'
  | 'ERR_REFERENCE_INVALID'
  | 'ERR_MANIFEST_INVALID'
  /** More bytes than any client or registry has to accept. */
  | 'ERR_MANIFEST_TOO_BIG'
  /** Well formed, but a kind that is not read here (Docker schema 1, for one). */
  | 'ERR_MANIFEST_UNSUPPORTED'
  | 'ERR_CONFIG_INVALID'
  /** An index holds nothing for the platform asked for. */
  | 'ERR_PLATFORM_NOT_FOUND'
  | 'ERR_LAYOUT_INVALID'
  | 'ERR_LAYOUT_NOT_FOUND'
  /** A blob of an image layout is not what its name says. */
  | 'ERR_LAYOUT_DIGEST'
  /** Credentials cannot be got from where they should be: a file, a credential helper. */
  | 'ERR_CREDENTIALS'
  /** A certificate or key cannot be read, or they do not fit together. */
  | 'ERR_TLS_FILE';

/** Something of the OCI formats that is not what it should be. */
export class OciError extends Error {
  override readonly name = 'OciError';
  readonly code: OciErrorCode;

  constructor(code: OciErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export type RegistryErrorCode =
  /** 401, or 403: no credentials, wrong ones, or ones without a right to this repository. */
  | 'ERR_REGISTRY_UNAUTHORIZED'
  /** Our own credentials cannot be got from where they should be; nothing was asked. */
  | 'ERR_REGISTRY_CREDENTIALS'
  | 'ERR_REGISTRY_NOT_FOUND'
  /** 429; `retryAfterMs` says when to come back, if the registry said so. */
  | 'ERR_REGISTRY_RATE_LIMITED'
  /** Nothing answers: DNS, connection, TLS or time-out. */
  | 'ERR_REGISTRY_UNREACHABLE'
  /** An answer with a status that nobody expects. */
  | 'ERR_REGISTRY_STATUS'
  /** The bytes are not those of the digest. */
  | 'ERR_REGISTRY_DIGEST'
  /** The answer breaks off, or its length or range is not the one asked for. */
  | 'ERR_REGISTRY_BODY'
  /** Headers or JSON that break the Distribution spec. */
  | 'ERR_REGISTRY_PROTOCOL'
  /** More bytes than the caller allows. */
  | 'ERR_REGISTRY_TOO_BIG'
  /** The registry sends us to an address that a public registry has no business with. */
  | 'ERR_REGISTRY_FORBIDDEN_ADDRESS';

/** What a request to a registry was about: the part of a {@link RegistryError} known before the answer. */
export interface RegistryContext {
  /** Host and port. */
  readonly host: string;
  readonly repository: string | null;
  /** Tag or digest. */
  readonly reference: string | null;
}

/** A registry that could not be reached, refused, or answered with something that cannot be used. */
export class RegistryError extends Error {
  override readonly name = 'RegistryError';
  readonly code: RegistryErrorCode;
  readonly host: string;
  readonly repository: string | null;
  readonly reference: string | null;
  /** HTTP status, null when there was no answer. */
  readonly status: number | null;
  /** How long the registry asked to be left alone, null if it did not say. */
  readonly retryAfterMs: number | null;
  /** The registry's own error entries. */
  readonly entries: readonly DistributionErrorEntry[];
  /** The registry's own `WWW-Authenticate` where it wants to know who asks, as it came, for a caller to answer. */
  readonly challenge: string | null;

  constructor(
    code: RegistryErrorCode,
    context: RegistryContext,
    message: string,
    details: {
      readonly status?: number;
      readonly retryAfterMs?: number | null;
      readonly entries?: readonly DistributionErrorEntry[];
      readonly challenge?: string | null;
      readonly cause?: unknown;
    } = {},
  ) {
    super(
      `${describeContext(context)}: ${message}`,
      details.cause === undefined ? {} : { cause: details.cause },
    );
    this.code = code;
    this.host = context.host;
    this.repository = context.repository;
    this.reference = context.reference;
    this.status = details.status ?? null;
    this.retryAfterMs = details.retryAfterMs ?? null;
    this.entries = details.entries ?? [];
    this.challenge = details.challenge ?? null;
  }
}

function describeContext({ host, repository, reference }: RegistryContext): string {
  if (repository === null) return host;
  if (reference === null) return `${host}/${repository}`;
  return `${host}/${repository}${reference.includes(':') ? '@' : ':'}${reference}`;
}

/** Error codes of the Distribution spec ("Error Codes"), and those of Docker's registry that clients know. */
const STATUS_OF_CODE = {
  BLOB_UNKNOWN: 404,
  BLOB_UPLOAD_INVALID: 400,
  BLOB_UPLOAD_UNKNOWN: 404,
  DIGEST_INVALID: 400,
  MANIFEST_BLOB_UNKNOWN: 404,
  MANIFEST_INVALID: 400,
  MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400,
  NAME_UNKNOWN: 404,
  PAGINATION_NUMBER_INVALID: 400,
  RANGE_INVALID: 416,
  SIZE_INVALID: 400,
  UNAUTHORIZED: 401,
  DENIED: 403,
  UNSUPPORTED: 405,
  TOOMANYREQUESTS: 429,
  UNAVAILABLE: 503,
  UNKNOWN: 500,
} as const;

export type DistributionErrorCode = keyof typeof STATUS_OF_CODE;

/** One entry of an error answer. Registries also use codes of their own. */
export interface DistributionErrorEntry {
  readonly code: string;
  readonly message?: string | undefined;
  readonly detail?: unknown;
}

/**
 * The answer for an error, as the Distribution spec wants it: its usual HTTP status, and the JSON body
 * (content type `application/json`).
 */
export function distributionError(
  code: DistributionErrorCode,
  message: string,
  detail?: Readonly<Record<string, unknown>>,
): { readonly status: (typeof STATUS_OF_CODE)[DistributionErrorCode]; readonly body: string } {
  const entry = detail === undefined ? { code, message } : { code, message, detail };
  return { status: STATUS_OF_CODE[code], body: JSON.stringify({ errors: [entry] }) };
}

const errorBodySchema = z.object({
  errors: z.array(
    z.object({ code: z.string(), message: z.string().optional(), detail: z.unknown().optional() }),
  ),
});

/** The entries of a registry's error answer; none if the body is something else (proxies send HTML). */
export function parseErrorBody(body: string): readonly DistributionErrorEntry[] {
  try {
    return errorBodySchema.parse(JSON.parse(body)).errors;
  } catch {
    return [];
  }
}

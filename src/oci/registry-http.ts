import type { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { type Dispatcher, request } from 'undici';
import { errorCode } from '../format/error-code.ts';
import { readAtMost } from './bounded-body.ts';
import { parseErrorBody, type RegistryContext, RegistryError, type RegistryErrorCode } from './errors.ts';
import { ForbiddenAddressError } from './registry-url.ts';

export type HttpResponse = Dispatcher.ResponseData;

export interface HttpRequest {
  readonly url: URL;
  readonly method: 'GET' | 'HEAD' | 'POST';
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal: AbortSignal | undefined;
}

const MAX_ERROR_BODY_BYTES = 64 * 1024;

/**
 * One request, one answer of any status.
 * @throws RegistryError ERR_REGISTRY_UNREACHABLE (also when aborted), ERR_REGISTRY_FORBIDDEN_ADDRESS
 */
export async function exchange(
  dispatcher: Dispatcher,
  { url, signal, ...rest }: HttpRequest,
  context: RegistryContext,
): Promise<HttpResponse> {
  try {
    return await request(url, { dispatcher, ...rest, ...(signal === undefined ? {} : { signal }) });
  } catch (cause) {
    if (cause instanceof ForbiddenAddressError) throw forbidden(cause, context);
    throw new RegistryError(
      'ERR_REGISTRY_UNREACHABLE',
      context,
      `no answer from ${url.host}: ${describeCause(cause)}; ${connectionAdvice(errorCode(cause) ?? '', url)}`,
      { cause },
    );
  }
}

/** Node's and OpenSSL's codes for certificates that do not prove who they should. */
const UNTRUSTED = /CERT|SIGNATURE|ISSUER/;

function connectionAdvice(code: string, { protocol }: URL): string {
  if (code.includes('ALERT'))
    return 'it refuses our TLS: give the client certificate and key that it asks for';
  if (code === 'UND_ERR_SOCKET' && protocol === 'https:') {
    // In TLS 1.3 the refusal comes when the connection already stands.
    return 'check that it is up, and if it asks for a client certificate give that and its key';
  }
  if (code === 'EPROTO' || code.startsWith('ERR_SSL_WRONG_VERSION')) {
    return 'it speaks no TLS there: write its URL with http:// if it is plain';
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'use the name that its certificate is for';
  if (code === 'CERT_HAS_EXPIRED') return 'its certificate has to be renewed there';
  if (UNTRUSTED.test(code)) return 'give the certificate of its authority (ca), or add it to the system';
  return 'check that it is up and can be reached from here';
}

export function forbidden(cause: ForbiddenAddressError, context: RegistryContext): RegistryError {
  return new RegistryError('ERR_REGISTRY_FORBIDDEN_ADDRESS', context, cause.message, { cause });
}

function describeCause(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  const code = errorCode(cause);
  return code === null || cause.message.includes(code) ? cause.message : `${cause.message} (${code})`.trim();
}

/** The value of a header that comes once. */
export function header(response: HttpResponse, name: string): string | null {
  const value = response.headers[name];
  return (Array.isArray(value) ? value[0] : value) ?? null;
}

/** All challenges of an answer, as they came. */
export function challengeOf(response: HttpResponse): string | null {
  return [response.headers['www-authenticate'] ?? []].flat().join(', ') || null;
}

/** A header that holds a number of bytes; null if it is missing or something else. */
export function headerBytes(response: HttpResponse, name: string): number | null {
  const text = header(response, name);
  if (text === null || !/^[0-9]+$/.test(text)) return null;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : null;
}

/** Ends an answer whose body nobody wants. */
export function discard(body: Readable): void {
  body.on('error', () => {}).destroy();
}

const STATUS_ERRORS: Readonly<Record<number, { code: RegistryErrorCode; advice: string }>> = {
  401: {
    code: 'ERR_REGISTRY_UNAUTHORIZED',
    advice: 'check the credentials for this registry, and that the repository exists',
  },
  403: {
    code: 'ERR_REGISTRY_UNAUTHORIZED',
    advice: 'check that the credentials for this registry may pull from the repository',
  },
  404: { code: 'ERR_REGISTRY_NOT_FOUND', advice: 'check name and tag' },
  429: { code: 'ERR_REGISTRY_RATE_LIMITED', advice: 'wait, or use credentials with a higher limit' },
};

/**
 * Reads an answer that is an error to its end and says what it means.
 * @param who answered
 * @param challenge of the registry, if it is about who asks
 */
export async function responseError(
  response: HttpResponse,
  context: RegistryContext,
  who = 'registry',
  challenge: string | null = null,
): Promise<RegistryError> {
  const status = response.statusCode;
  const entries = parseErrorBody(await readErrorBody(response.body));
  const known = STATUS_ERRORS[status] ?? {
    code: 'ERR_REGISTRY_STATUS',
    advice:
      status >= 500 ? 'the registry is in trouble; try again later' : 'the registry refuses the request',
  };
  const said = entries.map(({ code, message }) => (message ? `${code}: ${message}` : code)).join('; ');
  return new RegistryError(
    known.code,
    context,
    `the ${who} answered ${status}${said === '' ? '' : ` (${said.slice(0, 1000)})`}; ${known.advice}`,
    {
      status,
      entries,
      challenge,
      retryAfterMs: parseRetryAfter(header(response, 'retry-after'), Date.now()),
    },
  );
}

async function readErrorBody(body: Readable): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const piece of body) {
      pieces.push(piece);
      bytes += piece.length;
      if (bytes > MAX_ERROR_BODY_BYTES) break;
    }
  } catch {
    // The status says enough.
  }
  return Buffer.concat(pieces).toString('utf8');
}

/** A longer Retry-After is taken for this: nobody stays away for good because of one answer. */
const MAX_RETRY_AFTER_MS = 24 * 60 * 60_000;

/** RFC 9110, 10.2.3: seconds or a date. Null if there is no such header or it is neither. */
export function parseRetryAfter(value: string | null, nowMs: number): number | null {
  if (value === null) return null;
  if (/^[0-9]{1,9}$/.test(value.trim())) return Math.min(Number(value) * 1000, MAX_RETRY_AFTER_MS);
  const date = Date.parse(value);
  return Number.isNaN(date) ? null : Math.min(Math.max(0, date - nowMs), MAX_RETRY_AFTER_MS);
}

/** Told while bytes come of what has come so far: `bytes` is filled up to `filledBytes`. */
export type OnFilled = (bytes: Buffer, filledBytes: number) => void;

/**
 * A body of known length, in one allocation.
 * @throws RegistryError ERR_REGISTRY_BODY if it is longer or shorter
 */
export async function readExactly(
  body: Readable,
  lengthBytes: number,
  context: RegistryContext,
  onFilled: OnFilled = () => {},
): Promise<Buffer> {
  const target = Buffer.allocUnsafe(lengthBytes);
  let filled = 0;
  // Not by iterating, which would copy the pieces together first.
  body.on('data', (piece: Buffer) => {
    if (filled + piece.length > lengthBytes) {
      body.destroy(wrongLength(context, `more than ${lengthBytes}`, lengthBytes));
      return;
    }
    filled += piece.copy(target, filled);
    onFilled(target, filled);
  });
  try {
    await finished(body);
  } catch (cause) {
    throw cause instanceof RegistryError ? cause : brokenOff(context, cause);
  }
  if (filled !== lengthBytes) throw wrongLength(context, String(filled), lengthBytes);
  return target;
}

/**
 * A body of unknown length, at most `maxBytes`.
 * @throws RegistryError ERR_REGISTRY_TOO_BIG, ERR_REGISTRY_BODY
 */
export async function readUpTo(body: Readable, maxBytes: number, context: RegistryContext): Promise<Buffer> {
  let bytes: Buffer | null;
  try {
    bytes = await readAtMost(body, maxBytes);
  } catch (cause) {
    throw brokenOff(context, cause);
  }
  if (bytes === null) throw tooBig(context, `more than ${maxBytes}`, maxBytes);
  return bytes;
}

export function tooBig(context: RegistryContext, bytes: string, maxBytes: number): RegistryError {
  return new RegistryError(
    'ERR_REGISTRY_TOO_BIG',
    context,
    `it has ${bytes} bytes, ${maxBytes} are allowed here`,
  );
}

function wrongLength(context: RegistryContext, got: string, expected: number): RegistryError {
  return new RegistryError('ERR_REGISTRY_BODY', context, `the answer has ${got} bytes, not ${expected}`);
}

function brokenOff(context: RegistryContext, cause: unknown): RegistryError {
  const message = `the answer broke off: ${describeCause(cause)}`;
  return new RegistryError('ERR_REGISTRY_BODY', context, message, { cause });
}

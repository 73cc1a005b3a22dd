import { createHash } from 'node:crypto';
import { z } from 'zod';
import { unlessAborted } from '../format/unless-aborted.ts';
import { basicAuthorization, type Secret, secretKey } from './credentials.ts';
import { type RegistryContext, RegistryError } from './errors.ts';
import { type HttpRequest, type HttpResponse, readUpTo, responseError } from './registry-http.ts';

/** What a token is good for, and who asks. */
export interface TokenRequest {
  /** Address of the token service. */
  readonly realm: URL;
  readonly service: string | null;
  /** Space-separated, as the challenge gave it: `repository:lib/a:pull`. */
  readonly scope: string;
  readonly secret: Exclude<Secret, { kind: 'authorization' }> | null;
  /** The header that asked for it; errors carry it. */
  readonly challenge: string;
}

/** One request, one answer of any status. */
export type Exchange = (request: HttpRequest, context: RegistryContext) => Promise<HttpResponse>;

interface CachedToken {
  readonly token: string;
  /** On the clock of `performance.now()`. */
  readonly expiresAtMs: number;
}

const MAX_TOKEN_ANSWER_BYTES = 1024 * 1024;
const MAX_CACHED_TOKENS = 10_000;
/** Distribution's token specification: what holds when the service does not say. */
const DEFAULT_EXPIRES_IN_SECONDS = 60;
/** A token is not used this long before it expires, so that it does not expire on the way. */
const EXPIRY_MARGIN_MS = 10_000;

const answerSchema = z.object({
  token: z.string().optional(),
  access_token: z.string().optional(),
  expires_in: z.number().positive().optional(),
});

/** Fetches tokens from registries' token services and keeps them while they are valid. */
export class BearerTokens {
  readonly #exchange: Exchange;
  readonly #userAgent: string;
  readonly #tokens = new Map<string, CachedToken>();
  readonly #pending = new Map<string, Promise<CachedToken>>();

  constructor(exchange: Exchange, userAgent: string) {
    this.#exchange = exchange;
    this.#userAgent = userAgent;
  }

  /**
   * A token from the cache or the service. Callers that want the same one at the same time share a request,
   * which goes on when one of them gives up.
   * @throws RegistryError, as for any request; the signal's reason
   */
  async get(
    wanted: TokenRequest,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const key = cacheKey(wanted);
    const cached = this.#tokens.get(key);
    if (cached !== undefined && cached.expiresAtMs > performance.now()) return cached.token;
    let pending = this.#pending.get(key);
    if (pending === undefined) {
      pending = this.#fetch(wanted, context)
        .then((token) => this.#remember(key, token))
        .finally(() => this.#pending.delete(key));
      this.#pending.set(key, pending);
    }
    return (await unlessAborted(pending, signal)).token;
  }

  /** To be called with a token that the registry no longer takes. */
  forget(wanted: TokenRequest, token: string): void {
    const key = cacheKey(wanted);
    if (this.#tokens.get(key)?.token === token) this.#tokens.delete(key);
  }

  #remember(key: string, token: CachedToken): CachedToken {
    this.#tokens.delete(key);
    this.#tokens.set(key, token);
    for (const oldest of this.#tokens.keys()) {
      if (this.#tokens.size <= MAX_CACHED_TOKENS) break;
      this.#tokens.delete(oldest);
    }
    return token;
  }

  async #fetch(wanted: TokenRequest, context: RegistryContext): Promise<CachedToken> {
    const { realm, challenge } = wanted;
    const askedAtMs = performance.now();
    // Redirects are not followed: the realm was checked, where it leads to was not.
    const response = await this.#exchange(tokenRequest(wanted, this.#userAgent), context);
    if (response.statusCode !== 200)
      throw await responseError(response, context, `token service ${realm.host}`, challenge);
    const answer = parseAnswer(await readUpTo(response.body, MAX_TOKEN_ANSWER_BYTES, context));
    const token = answer?.token || answer?.access_token;
    if (!token) {
      const message = `the token service ${realm.host} gave no token`;
      throw new RegistryError('ERR_REGISTRY_PROTOCOL', context, message);
    }
    const lifetimeMs = (answer?.expires_in ?? DEFAULT_EXPIRES_IN_SECONDS) * 1000;
    return { token, expiresAtMs: askedAtMs + Math.max(lifetimeMs - EXPIRY_MARGIN_MS, lifetimeMs / 2) };
  }
}

function tokenRequest({ realm, service, scope, secret }: TokenRequest, userAgent: string): HttpRequest {
  const headers = { accept: 'application/json', 'user-agent': userAgent };
  const signal = undefined;
  if (secret?.kind === 'identity-token') {
    // Distribution, "OAuth2 Token Authentication": the only way to use a refresh token.
    const form = new URLSearchParams({ grant_type: 'refresh_token', client_id: userAgent, scope });
    if (service !== null) form.set('service', service);
    form.set('refresh_token', secret.token);
    const type = { 'content-type': 'application/x-www-form-urlencoded' };
    return { url: realm, method: 'POST', headers: { ...headers, ...type }, body: form.toString(), signal };
  }
  const url = new URL(realm);
  if (service !== null) url.searchParams.set('service', service);
  for (const one of scope.split(' ')) url.searchParams.append('scope', one);
  if (secret === null) return { url, method: 'GET', headers, signal };
  url.searchParams.set('account', secret.username);
  const authorization = basicAuthorization(secret);
  return { url, method: 'GET', headers: { ...headers, authorization }, signal };
}

function parseAnswer(bytes: Buffer): z.infer<typeof answerSchema> | null {
  try {
    return answerSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch {
    return null;
  }
}

function cacheKey({ realm, service, scope, secret }: TokenRequest): string {
  const identity = secret === null ? null : createHash('sha256').update(secretKey(secret)).digest('base64');
  return JSON.stringify([realm.href, service, scope, identity]);
}

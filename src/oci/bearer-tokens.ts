import { createHash } from 'node:crypto';
import type { Dispatcher } from 'undici';
import { z } from 'zod';
import { type RegistryContext, RegistryError } from './errors.ts';
import { exchange, readUpTo, responseError } from './registry-http.ts';

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

/** What a token is good for, and who asks. */
export interface TokenRequest {
  /** Address of the token service. */
  readonly realm: URL;
  readonly service: string | null;
  /** Space-separated, as the challenge gave it: `repository:lib/a:pull`. */
  readonly scope: string;
  readonly credentials: Credentials | null;
}

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
  readonly #dispatcher: Dispatcher;
  readonly #userAgent: string;
  readonly #tokens = new Map<string, CachedToken>();
  readonly #pending = new Map<string, Promise<CachedToken>>();

  constructor(dispatcher: Dispatcher, userAgent: string) {
    this.#dispatcher = dispatcher;
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
    return (await raceAbort(pending, signal)).token;
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

  async #fetch(
    { realm, service, scope, credentials }: TokenRequest,
    context: RegistryContext,
  ): Promise<CachedToken> {
    const url = new URL(realm);
    if (service !== null) url.searchParams.set('service', service);
    for (const one of scope.split(' ')) url.searchParams.append('scope', one);
    if (credentials !== null) url.searchParams.set('account', credentials.username);
    const headers = {
      accept: 'application/json',
      'user-agent': this.#userAgent,
      ...(credentials === null ? {} : { authorization: basicAuthorization(credentials) }),
    };
    const askedAtMs = performance.now();
    const response = await exchange(
      this.#dispatcher,
      { url, method: 'GET', headers, signal: undefined },
      context,
    );
    if (response.statusCode !== 200)
      throw await responseError(response, context, `token service ${url.host}`);
    const answer = parseAnswer(await readUpTo(response.body, MAX_TOKEN_ANSWER_BYTES, context));
    const token = answer?.token || answer?.access_token;
    if (!token) {
      const message = `the token service ${url.host} gave no token`;
      throw new RegistryError('ERR_REGISTRY_PROTOCOL', context, message);
    }
    const lifetimeMs = (answer?.expires_in ?? DEFAULT_EXPIRES_IN_SECONDS) * 1000;
    return { token, expiresAtMs: askedAtMs + Math.max(lifetimeMs - EXPIRY_MARGIN_MS, lifetimeMs / 2) };
  }
}

export function basicAuthorization({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

function parseAnswer(bytes: Buffer): z.infer<typeof answerSchema> | null {
  try {
    return answerSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch {
    return null;
  }
}

function cacheKey({ realm, service, scope, credentials }: TokenRequest): string {
  const identity =
    credentials === null
      ? null
      : createHash('sha256').update(basicAuthorization(credentials)).digest('base64');
  return JSON.stringify([realm.href, service, scope, identity]);
}

function raceAbort<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

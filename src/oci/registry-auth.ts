import type { BearerTokens, TokenRequest } from './bearer-tokens.ts';
import { basicAuthorization, type CredentialsProvider, type Secret, secretKey } from './credentials.ts';
import { OciError, type RegistryContext, RegistryError } from './errors.ts';
import { forbidden } from './registry-http.ts';
import { type AddressGuard, ForbiddenAddressError, isLoopback } from './registry-url.ts';

/** One challenge of a `WWW-Authenticate` header. */
export interface Challenge {
  /** Lower case: `basic`, `bearer`. */
  readonly scheme: string;
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>;
}

const CHALLENGE_PIECE =
  /[\s,=]*(?<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:\s*=\s*(?:"(?<quoted>(?:[^"\\]|\\.)*)"|(?<plain>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)))?/gy;

/** Reads `WWW-Authenticate` (RFC 9110, 11.6.1): one header may hold several challenges. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  for (const { groups = {} } of header.matchAll(CHALLENGE_PIECE)) {
    const name = (groups['name'] ?? '').toLowerCase();
    const value = groups['quoted']?.replace(/\\(.)/g, '$1') ?? groups['plain'];
    if (value === undefined) challenges.push({ scheme: name, parameters: new Map() });
    else challenges.at(-1)?.parameters.set(name, value);
  }
  return challenges;
}

/** How a repository wants requests to be authorised, whoever asks. */
export type AuthMethod =
  | { readonly kind: 'basic' }
  | { readonly kind: 'bearer'; readonly wanted: Omit<TokenRequest, 'secret'> };

const MAX_REMEMBERED_REPOSITORIES = 10_000;

/**
 * The `Authorization` of requests to one registry on behalf of one identity. Nothing is sent before the
 * registry asks for it, but for what a caller sent; what it asked for is remembered by repository.
 */
export class RegistryAuth {
  readonly #registry: URL;
  readonly #credentials: CredentialsProvider;
  readonly #tokens: BearerTokens;
  readonly #guard: AddressGuard;
  readonly #methods: Map<string, AuthMethod>;

  /** @param shared what does not depend on who asks */
  constructor(
    shared: {
      readonly baseUrl: URL;
      readonly tokens: BearerTokens;
      readonly guard: AddressGuard;
      /** By repository. */
      readonly authMethods: Map<string, AuthMethod>;
    },
    credentials: CredentialsProvider,
  ) {
    this.#registry = shared.baseUrl;
    this.#credentials = credentials;
    this.#tokens = shared.tokens;
    this.#guard = shared.guard;
    this.#methods = shared.authMethods;
  }

  /**
   * The header's value for a request about a repository; null if the registry has not asked for one yet.
   * @throws RegistryError, as for any request; the signal's reason
   */
  async authorization(
    repository: string,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<string | null> {
    const secret = await this.#secret(context, signal);
    if (secret?.kind === 'authorization') return secret.value;
    const method = this.#methods.get(repository);
    if (method === undefined) return null;
    if (method.kind === 'basic') return secret?.kind === 'password' ? basicAuthorization(secret) : null;
    return `Bearer ${await this.#token(method.wanted, secret, context, signal)}`;
  }

  /**
   * A better value after a 401, null if there is none.
   * @param challenge the answer's `WWW-Authenticate`
   * @param refused the value that was sent with the request
   */
  async renew(
    challenge: string,
    refused: string | null,
    repository: string,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<string | null> {
    const secret = await this.#secret(context, signal);
    if (secret?.kind === 'authorization') return null;
    const method = this.#method(challenge, repository, context);
    if (method === null) return null;
    if (method.kind === 'bearer' && refused?.startsWith('Bearer ')) {
      this.#tokens.forget({ ...method.wanted, secret }, refused.slice('Bearer '.length));
    }
    if (secret?.kind === 'password' && refused === basicAuthorization(secret)) {
      this.#credentials.refused(secret);
    }
    if (this.#methods.size >= MAX_REMEMBERED_REPOSITORIES) this.#methods.clear();
    this.#methods.set(repository, method);
    const renewed = await this.authorization(repository, context, signal);
    return renewed === refused ? null : renewed;
  }

  /** A token; if the token service refuses the secret and there is a newer one, for that. */
  async #token(
    wanted: Omit<TokenRequest, 'secret'>,
    secret: TokenRequest['secret'],
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    try {
      return await this.#tokens.get({ ...wanted, secret }, context, signal);
    } catch (error) {
      const isRefusal = error instanceof RegistryError && error.code === 'ERR_REGISTRY_UNAUTHORIZED';
      if (!isRefusal || secret === null) throw error;
      this.#credentials.refused(secret);
      const newer = await this.#secret(context, signal);
      if (newer?.kind === 'authorization') throw error;
      if (newer === null || secretKey(newer) === secretKey(secret)) throw error;
      return this.#tokens.get({ ...wanted, secret: newer }, context, signal);
    }
  }

  async #secret(context: RegistryContext, signal: AbortSignal | undefined): Promise<Secret | null> {
    try {
      return await this.#credentials.current(signal);
    } catch (cause) {
      if (!(cause instanceof OciError)) throw cause;
      throw new RegistryError('ERR_REGISTRY_CREDENTIALS', context, cause.message, { cause });
    }
  }

  #method(challenge: string, repository: string, context: RegistryContext): AuthMethod | null {
    const challenges = parseChallenges(challenge);
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer === undefined) {
      return challenges.some(({ scheme }) => scheme === 'basic') ? { kind: 'basic' } : null;
    }
    const wanted = {
      realm: this.#realm(bearer.parameters.get('realm') ?? '', context),
      service: bearer.parameters.get('service') ?? null,
      scope: bearer.parameters.get('scope') ?? `repository:${repository}:pull`,
      challenge,
    };
    return { kind: 'bearer', wanted };
  }

  /** Credentials go there: a registry that is reached safely must not make us send them in the clear. */
  #realm(text: string, context: RegistryContext): URL {
    const refuse = (reason: string): RegistryError =>
      new RegistryError(
        'ERR_REGISTRY_PROTOCOL',
        context,
        `its token realm ${JSON.stringify(text)} is refused: ${reason}`,
      );
    if (!URL.canParse(text)) throw refuse('it is not a URL');
    const realm = new URL(text);
    if (realm.username !== '' || realm.password !== '') throw refuse('it holds credentials');
    try {
      this.#guard.check(realm);
    } catch (error) {
      throw error instanceof ForbiddenAddressError ? forbidden(error, context) : error;
    }
    const sameMachine =
      realm.hostname === this.#registry.hostname || (isLoopback(realm) && isLoopback(this.#registry));
    if (realm.protocol === 'https:' || (this.#registry.protocol === 'http:' && sameMachine)) return realm;
    throw refuse('it must be https, unless the registry itself is reached by plain http on the same host');
  }
}

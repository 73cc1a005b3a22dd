import {
  type BearerTokens,
  basicAuthorization,
  type Credentials,
  type TokenRequest,
} from './bearer-tokens.ts';
import { type RegistryContext, RegistryError } from './errors.ts';
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

/** How a repository wants requests to be authorised. */
type Method =
  | { readonly kind: 'basic'; readonly credentials: Credentials }
  | { readonly kind: 'bearer'; readonly request: TokenRequest };

const MAX_REMEMBERED_REPOSITORIES = 10_000;

/**
 * The `Authorization` of requests to one registry on behalf of one identity. Nothing is sent before the
 * registry asks for it; what it asked for is remembered by repository.
 */
export class RegistryAuth {
  readonly #registry: URL;
  readonly #credentials: Credentials | null;
  readonly #tokens: BearerTokens;
  readonly #guard: AddressGuard;
  readonly #methods = new Map<string, Method>();

  constructor(registry: URL, credentials: Credentials | null, tokens: BearerTokens, guard: AddressGuard) {
    this.#registry = registry;
    this.#credentials = credentials;
    this.#tokens = tokens;
    this.#guard = guard;
  }

  /** The header's value for a request about a repository; null if the registry has not asked for one yet. */
  async authorization(
    repository: string,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<string | null> {
    const method = this.#methods.get(repository);
    if (method === undefined) return null;
    if (method.kind === 'basic') return basicAuthorization(method.credentials);
    return `Bearer ${await this.#tokens.get(method.request, context, signal)}`;
  }

  /**
   * A better value after a 401, null if there is none.
   * @param challengeHeader the answer's `WWW-Authenticate`
   * @param refused the value that was sent with the request
   */
  async renew(
    challengeHeader: string,
    refused: string | null,
    repository: string,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<string | null> {
    const method = this.#method(parseChallenges(challengeHeader), repository, context);
    if (method === null) return null;
    if (method.kind === 'bearer' && refused?.startsWith('Bearer ')) {
      this.#tokens.forget(method.request, refused.slice('Bearer '.length));
    }
    if (this.#methods.size >= MAX_REMEMBERED_REPOSITORIES) this.#methods.clear();
    this.#methods.set(repository, method);
    const renewed = await this.authorization(repository, context, signal);
    return renewed === refused ? null : renewed;
  }

  #method(challenges: readonly Challenge[], repository: string, context: RegistryContext): Method | null {
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer !== undefined) {
      return {
        kind: 'bearer',
        request: {
          realm: this.#realm(bearer.parameters.get('realm') ?? '', context),
          service: bearer.parameters.get('service') ?? null,
          scope: bearer.parameters.get('scope') ?? `repository:${repository}:pull`,
          credentials: this.#credentials,
        },
      };
    }
    if (this.#credentials === null || !challenges.some(({ scheme }) => scheme === 'basic')) return null;
    return { kind: 'basic', credentials: this.#credentials };
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

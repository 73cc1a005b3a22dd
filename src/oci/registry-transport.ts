import { Agent, type Dispatcher } from 'undici';
import { BearerTokens, type Credentials } from './bearer-tokens.ts';
import { type RegistryContext, RegistryError } from './errors.ts';
import { type ExchangeObserver, observing } from './exchange-observer.ts';
import { RegistryAuth } from './registry-auth.ts';
import { exchange, forbidden, type HttpResponse, header, responseError } from './registry-http.ts';
import { AddressGuard, ForbiddenAddressError } from './registry-url.ts';

export interface RegistryTimeouts {
  /** Until the connection stands, TLS included. */
  readonly connectMs: number;
  /** From the request until the answer's headers. */
  readonly headersMs: number;
  /** Between two pieces of a body while we are ready for more. */
  readonly bodyMs: number;
}

const DEFAULT_TIMEOUTS: RegistryTimeouts = { connectMs: 5_000, headersMs: 20_000, bodyMs: 60_000 };
const KEEP_ALIVE_MS = 30_000;
const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** One request to a registry, as far as authorisation and redirects do not matter. */
export interface RegistryRequest {
  readonly method: 'GET' | 'HEAD';
  /** URL relative to the registry's address: `v2/lib/a/blobs/sha256:…`. */
  readonly path: string;
  readonly repository: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal | undefined;
}

/** Connections to one registry and the tokens for it, whoever uses them. */
export class RegistryConnections {
  /** Its path ends in a slash. */
  readonly baseUrl: URL;
  readonly userAgent: string;
  readonly dispatcher: Dispatcher;
  readonly #agent: Agent;
  readonly guard: AddressGuard;
  readonly tokens: BearerTokens;

  constructor(
    baseUrl: URL,
    userAgent: string,
    timeouts: Partial<RegistryTimeouts>,
    observer: ExchangeObserver | null,
  ) {
    const { connectMs, headersMs, bodyMs } = { ...DEFAULT_TIMEOUTS, ...timeouts };
    this.baseUrl = new URL(baseUrl.href.endsWith('/') ? baseUrl.href : `${baseUrl.href}/`);
    this.userAgent = userAgent;
    this.guard = new AddressGuard(baseUrl);
    this.#agent = new Agent({
      connect: { timeout: connectMs, lookup: this.guard.lookup },
      headersTimeout: headersMs,
      bodyTimeout: bodyMs,
      keepAliveTimeout: KEEP_ALIVE_MS,
      // Large bodies side by side: a connection each is faster than one connection's flow control.
      allowH2: false,
    });
    this.dispatcher = observer === null ? this.#agent : this.#agent.compose(observing(observer));
    this.tokens = new BearerTokens(this.dispatcher, userAgent);
  }

  /** Ends all connections, running requests too. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }
}

/** Requests to one registry on behalf of one identity: authorised, redirects followed, failures as RegistryError. */
export class RegistryTransport {
  readonly #connections: RegistryConnections;
  readonly #auth: RegistryAuth;

  constructor(connections: RegistryConnections, credentials: Credentials | null) {
    this.#connections = connections;
    this.#auth = new RegistryAuth(connections.baseUrl, credentials, connections.tokens, connections.guard);
  }

  /**
   * An answer with a status of 200 to 299; its body is the caller's to read or to dump.
   * @throws RegistryError for any other, and where there is none; the signal's reason
   */
  async send(wanted: RegistryRequest, context: RegistryContext): Promise<HttpResponse> {
    const { repository, signal } = wanted;
    const sent = await this.#auth.authorization(repository, context, signal);
    let { response, ours } = await this.#follow(wanted, sent, context);
    // A challenge from where we were redirected to is not the registry's: it gets no credentials.
    if (response.statusCode === 401 && ours) {
      const challenge = [response.headers['www-authenticate'] ?? []].flat().join(', ');
      const renewed = await this.#auth.renew(challenge, sent, repository, context, signal);
      if (renewed !== null) {
        await response.body.dump();
        ({ response } = await this.#follow(wanted, renewed, context));
      }
    }
    if (response.statusCode >= 200 && response.statusCode < 300) return response;
    throw await responseError(response, context);
  }

  async #follow(
    { method, path, headers, signal }: RegistryRequest,
    authorization: string | null,
    context: RegistryContext,
  ): Promise<{ response: HttpResponse; ours: boolean }> {
    const { dispatcher, baseUrl, userAgent } = this.#connections;
    let url = new URL(path, baseUrl.href);
    let ours = url.origin === baseUrl.origin;
    const common = { 'user-agent': userAgent, 'accept-encoding': 'identity', ...headers };
    for (let redirects = 0; ; redirects++) {
      this.#check(url, context);
      const authorized = ours && authorization !== null ? { ...common, authorization } : common;
      const response = await exchange(dispatcher, { url, method, headers: authorized, signal }, context);
      const location = header(response, 'location');
      if (!REDIRECTS.has(response.statusCode) || location === null) return { response, ours };
      await response.body.dump();
      if (redirects === MAX_REDIRECTS) throw protocolError(context, `more than ${MAX_REDIRECTS} redirects`);
      if (!URL.canParse(location, url.href)) throw protocolError(context, 'a redirect to what is no URL');
      url = new URL(location, url.href);
      // Once elsewhere, what comes is not the registry's word any more, even if it leads back.
      ours &&= url.origin === baseUrl.origin;
    }
  }

  #check(url: URL, context: RegistryContext): void {
    try {
      this.#connections.guard.check(url);
    } catch (error) {
      throw error instanceof ForbiddenAddressError ? forbidden(error, context) : error;
    }
  }
}

function protocolError(context: RegistryContext, message: string): RegistryError {
  return new RegistryError('ERR_REGISTRY_PROTOCOL', context, `the registry answered with ${message}`);
}

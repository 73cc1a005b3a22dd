import type { CredentialsProvider } from './credentials.ts';
import { type RegistryContext, RegistryError } from './errors.ts';
import { RateLimits } from './rate-limits.ts';
import { RegistryAuth } from './registry-auth.ts';
import type { RegistryConnections } from './registry-connections.ts';
import { challengeOf, forbidden, type HttpResponse, header, responseError } from './registry-http.ts';
import { ForbiddenAddressError } from './registry-url.ts';

const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** One request to a registry, as far as authorisation and redirects do not matter. */
export interface RegistryRequest {
  readonly method: 'GET' | 'HEAD';
  /** What is asked for: a blob is checked against its digest, whoever sends it. */
  readonly kind: 'manifest' | 'blob' | 'list';
  /** URL relative to the registry's address: `v2/lib/a/blobs/sha256:…`. */
  readonly path: string;
  readonly repository: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal | undefined;
}

/** Requests to one registry on behalf of one identity: authorised, redirects followed, failures as RegistryError. */
export class RegistryTransport {
  readonly connections: RegistryConnections;
  readonly limits = new RateLimits();
  readonly #auth: RegistryAuth;

  constructor(connections: RegistryConnections, credentials: CredentialsProvider) {
    this.connections = connections;
    this.#auth = new RegistryAuth(connections, credentials);
  }

  /**
   * An answer with a status of 200 to 299; its body is the caller's to read or to dump.
   * @throws RegistryError for any other, and where there is none; the signal's reason
   */
  async send(wanted: RegistryRequest, context: RegistryContext): Promise<HttpResponse> {
    const { repository, signal } = wanted;
    const counted = wanted.kind === 'manifest' && wanted.method === 'GET' ? 'pull' : 'other';
    this.limits.check(counted, context);
    const sent = await this.#limited(this.#auth.authorization(repository, context, signal));
    let { response, ours } = await this.#follow(wanted, sent, context);
    let error = await this.#errorOf(response, ours, context);
    // A challenge from where we were redirected to is not the registry's: it gets no credentials.
    if (error?.challenge) {
      const renewal = this.#auth.renew(error.challenge, sent, repository, context, signal);
      const renewed = await this.#limited(renewal);
      if (renewed !== null) {
        ({ response, ours } = await this.#follow(wanted, renewed, context));
        error = await this.#errorOf(response, ours, context);
      }
    }
    if (error === null) return response;
    if (ours) this.limits.refused(counted, error);
    throw error;
  }

  /** Null for an answer that is none; else its body has been read. */
  async #errorOf(
    response: HttpResponse,
    ours: boolean,
    context: RegistryContext,
  ): Promise<RegistryError | null> {
    const { statusCode: status } = response;
    if (status >= 200 && status < 300) return null;
    return responseError(
      response,
      context,
      'registry',
      status === 401 && ours ? challengeOf(response) : null,
    );
  }

  /** A token service's limit is one for everything: nothing can be asked without a token. */
  async #limited<T>(authorized: Promise<T>): Promise<T> {
    try {
      return await authorized;
    } catch (error) {
      if (error instanceof RegistryError) this.limits.refused('other', error);
      throw error;
    }
  }

  async #follow(
    { method, kind, path, headers, signal }: RegistryRequest,
    authorization: string | null,
    context: RegistryContext,
  ): Promise<{ response: HttpResponse; ours: boolean }> {
    const { baseUrl, userAgent } = this.connections;
    const lane = kind === 'blob' && method === 'GET' ? 'bulk' : 'small';
    let url = new URL(path, baseUrl.href);
    let ours = url.origin === baseUrl.origin;
    const common = { 'user-agent': userAgent, 'accept-encoding': 'identity', ...headers };
    for (let redirects = 0; ; redirects++) {
      this.#check(url, context);
      const authorized = ours && authorization !== null ? { ...common, authorization } : common;
      const request = { url, method, headers: authorized, signal };
      const response = await this.connections.exchange(request, lane, context);
      if (ours) this.limits.observe(response);
      const location = header(response, 'location');
      if (!REDIRECTS.has(response.statusCode) || location === null) return { response, ours };
      await response.body.dump();
      if (redirects === MAX_REDIRECTS) throw protocolError(context, `more than ${MAX_REDIRECTS} redirects`);
      if (!URL.canParse(location, url.href)) throw protocolError(context, 'a redirect to what is no URL');
      const next = new URL(location, url.href);
      if (url.protocol === 'https:' && next.protocol === 'http:' && kind !== 'blob') {
        throw protocolError(
          context,
          `a redirect to plain http (${next.host}), where anybody could change it`,
        );
      }
      url = next;
      // Once elsewhere, what comes is not the registry's word any more, even if it leads back.
      ours &&= url.origin === baseUrl.origin;
    }
  }

  #check(url: URL, context: RegistryContext): void {
    try {
      this.connections.guard.check(url);
    } catch (error) {
      throw error instanceof ForbiddenAddressError ? forbidden(error, context) : error;
    }
  }
}

function protocolError(context: RegistryContext, message: string): RegistryError {
  return new RegistryError('ERR_REGISTRY_PROTOCOL', context, `the registry answered with ${message}`);
}

import { type RegistryContext, RegistryError } from '../../oci/errors.ts';
import { type Lane, RegistryConnections, type RegistryTimeouts } from '../../oci/registry-connections.ts';
import { discard, type HttpResponse } from '../../oci/registry-http.ts';
import type { RegistryTls } from '../../oci/registry-tls.ts';

export interface ProxyRelayOptions {
  /** The preferred one first. */
  readonly urls: readonly URL[];
  /** Null for what Node.js trusts by itself. */
  readonly tls?: RegistryTls | null;
  readonly timeouts?: Partial<RegistryTimeouts>;
  /** How long a proxy that failed is asked after the others. */
  readonly restMs?: number;
}

/** A request that is handed on. */
export interface RelayedRequest {
  readonly method: 'GET' | 'HEAD';
  /** Below the proxy's address, with its query: `v2/lib/a/tags/list?ns=reg.example`. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly lane: Lane;
  readonly repository: string | null;
  readonly signal: AbortSignal;
}

export interface RelayedAnswer {
  /** Of any status; its body is to be read or discarded. */
  readonly response: HttpResponse;
  /** Of the proxy that gave it. */
  readonly host: string;
  /** To be called when it turned out to be wrong: that proxy is asked after the others for a while. */
  distrust(): void;
}

/** Clients wait 30 seconds for headers; a proxy answers within some of them, or says that it cannot. */
const TIMEOUTS: Partial<RegistryTimeouts> = { connectMs: 3_000, headersMs: 12_000, bodyMs: 20_000 };
const REST_MS = 10_000;
const USER_AGENT = 'dadi-node';
/** Of what stands in front of a proxy that is away. */
const GATEWAY_FAULTS: ReadonlySet<number> = new Set([502, 503, 504]);

/** No proxy can be asked, as opposed to one that says no. */
export class ProxiesAwayError extends Error {
  override readonly name = 'ProxiesAwayError';
  readonly code = 'ERR_PROXIES_AWAY';
}

interface Proxy {
  readonly url: URL;
  readonly connections: RegistryConnections;
  restsUntilMs: number;
}

/** Hands requests on to the first of several proxies that is well. */
export class ProxyRelay {
  readonly #proxies: readonly Proxy[];
  readonly #restMs: number;

  constructor({ urls, tls = null, timeouts = {}, restMs = REST_MS }: ProxyRelayOptions) {
    this.#restMs = restMs;
    this.#proxies = urls.map((baseUrl) => {
      const options = { baseUrl, userAgent: USER_AGENT, tls, timeouts: { ...TIMEOUTS, ...timeouts } };
      return { url: baseUrl, connections: new RegistryConnections(options), restsUntilMs: 0 };
    });
  }

  /**
   * One answer. One that tells of trouble is the caller's only if no other proxy has a better one.
   * @throws ProxiesAwayError; the signal's reason
   */
  async ask(request: RelayedRequest): Promise<RelayedAnswer> {
    let trouble: RelayedAnswer | null = null;
    let failure: unknown = null;
    for (const proxy of this.#inOrder()) {
      try {
        const answer = await this.#askOne(proxy, request);
        if (trouble !== null) discard(trouble.response.body);
        if (!isTrouble(answer.response)) {
          proxy.restsUntilMs = 0;
          return answer;
        }
        trouble = answer;
        if (isAway(answer.response)) answer.distrust();
      } catch (error) {
        request.signal.throwIfAborted();
        failure = error;
        this.#rest(proxy);
      }
    }
    if (trouble !== null && !isAway(trouble.response)) return trouble;
    if (trouble !== null) discard(trouble.response.body);
    throw new ProxiesAwayError(this.#described(failure), { cause: failure });
  }

  /** Ends running requests too. */
  async close(): Promise<void> {
    await Promise.all(this.#proxies.map(({ connections }) => connections.close()));
  }

  async #askOne(proxy: Proxy, request: RelayedRequest): Promise<RelayedAnswer> {
    const { url, connections } = proxy;
    const { method, path, headers, lane, repository, signal } = request;
    const context: RegistryContext = { host: url.host, repository, reference: null };
    const all = { 'user-agent': USER_AGENT, 'accept-encoding': 'identity', ...headers };
    const target = new URL(path, connections.baseUrl);
    const response = await connections.exchange({ url: target, method, headers: all, signal }, lane, context);
    return { response, host: url.host, distrust: () => this.#rest(proxy) };
  }

  #rest(proxy: Proxy): void {
    proxy.restsUntilMs = performance.now() + this.#restMs;
  }

  #inOrder(): readonly Proxy[] {
    const nowMs = performance.now();
    const well = this.#proxies.filter(({ restsUntilMs }) => restsUntilMs <= nowMs);
    return [...well, ...this.#proxies.filter((proxy) => !well.includes(proxy))];
  }

  #described(failure: unknown): string {
    const hosts = this.#proxies.map(({ url }) => url.host).join(', ');
    const reason = failure instanceof RegistryError ? `: ${failure.message}` : '';
    return `no dadi proxy can be asked (${hosts})${reason}`;
  }
}

/** What another proxy may do better. */
function isTrouble({ statusCode }: HttpResponse): boolean {
  return statusCode === 429 || statusCode >= 500;
}

/** The word of something in between: a proxy marks its own answers (Docker's registry API, "API Version Check"). */
function isAway({ statusCode, headers }: HttpResponse): boolean {
  return GATEWAY_FAULTS.has(statusCode) && headers['docker-distribution-api-version'] === undefined;
}

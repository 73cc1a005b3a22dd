import { Agent, type Dispatcher, Pool, ProxyAgent } from 'undici';
import { BearerTokens } from './bearer-tokens.ts';
import type { RegistryContext } from './errors.ts';
import { type ExchangeObserver, observing } from './exchange-observer.ts';
import { type HttpProxies, proxyFor } from './http-proxies.ts';
import { type ProgressLimits, progressGuard } from './progress-guard.ts';
import type { AuthMethod } from './registry-auth.ts';
import { exchange, type HttpRequest, type HttpResponse } from './registry-http.ts';
import { ownTlsOptions, type RegistryTls } from './registry-tls.ts';
import { AddressGuard, type Reach } from './registry-url.ts';

export interface RegistryTimeouts extends ProgressLimits {
  /** Until the connection stands, TLS included. */
  readonly connectMs: number;
  /** Between two pieces of a body while we are ready for more. */
  readonly bodyMs: number;
}

export const DEFAULT_TIMEOUTS: RegistryTimeouts = {
  connectMs: 5_000,
  headersMs: 20_000,
  bodyMs: 60_000,
  progressWindowMs: 60_000,
  progressMinBytes: 16 * 1024,
};
const KEEP_ALIVE_MS = 30_000;
const DEFAULT_MAX_CONNECTIONS = 64;

export interface ConnectionOptions {
  readonly baseUrl: URL;
  readonly userAgent: string;
  readonly timeouts?: Partial<RegistryTimeouts> | undefined;
  /** Null for what Node.js trusts by itself. */
  readonly tls?: RegistryTls | null | undefined;
  readonly proxies?: HttpProxies | null | undefined;
  /** At once to one host, for blobs; as many again for all else, which never waits behind them. */
  readonly maxConnections?: number | undefined;
  readonly observer?: ExchangeObserver | undefined;
  /** How far inside the registry itself may stand. */
  readonly reach?: Reach | undefined;
}

/** What shares connections: a blob may take minutes, nothing else does. */
export type Lane = 'small' | 'bulk';

/** Connections to one registry and where it sends us, and the tokens for it, whoever uses them. */
export class RegistryConnections {
  /** Its path ends in a slash. */
  readonly baseUrl: URL;
  readonly userAgent: string;
  readonly guard: AddressGuard;
  readonly tokens: BearerTokens;
  /** By repository. */
  readonly authMethods = new Map<string, AuthMethod>();
  readonly #options: ConnectionOptions;
  readonly #timeouts: RegistryTimeouts;
  readonly #agents = new Map<string, Agent | ProxyAgent>();
  readonly #dispatchers = new Map<string, Dispatcher>();

  constructor(options: ConnectionOptions) {
    const { baseUrl, userAgent, timeouts, reach = 'any' } = options;
    this.baseUrl = new URL(baseUrl.href.endsWith('/') ? baseUrl.href : `${baseUrl.href}/`);
    this.userAgent = userAgent;
    this.guard = new AddressGuard(baseUrl, reach);
    this.#options = options;
    this.#timeouts = { ...DEFAULT_TIMEOUTS, ...timeouts };
    this.tokens = new BearerTokens((request, context) => this.exchange(request, 'small', context), userAgent);
  }

  /**
   * One request, one answer of any status, by the way that its URL asks for.
   * @throws RegistryError ERR_REGISTRY_UNREACHABLE, ERR_REGISTRY_FORBIDDEN_ADDRESS; the signal's reason
   */
  exchange(request: HttpRequest, lane: Lane, context: RegistryContext): Promise<HttpResponse> {
    return exchange(this.#dispatcher(request.url, lane), request, context);
  }

  /** Ends all connections, running requests too. */
  async close(): Promise<void> {
    await Promise.all([...this.#agents.values()].map((agent) => agent.destroy()));
  }

  #dispatcher(url: URL, lane: Lane): Dispatcher {
    const { proxies = null } = this.#options;
    const isOwn = url.origin === this.baseUrl.origin;
    const proxy = proxies === null ? null : proxyFor(url, proxies);
    const key = `${isOwn} ${lane} ${proxy?.href ?? ''}`;
    let dispatcher = this.#dispatchers.get(key);
    if (dispatcher === undefined) {
      const agent = this.#open(isOwn, proxy);
      this.#agents.set(key, agent);
      const { observer } = this.#options;
      const guarded = agent.compose(progressGuard(this.#timeouts));
      dispatcher = observer === undefined ? guarded : guarded.compose(observing(observer));
      this.#dispatchers.set(key, dispatcher);
    }
    return dispatcher;
  }

  #open(isOwn: boolean, proxy: URL | null): Agent | ProxyAgent {
    const { connectMs, headersMs, bodyMs } = this.#timeouts;
    const { tls = null, maxConnections = DEFAULT_MAX_CONNECTIONS } = this.#options;
    // The client certificate, and the trust in whatever comes, are for the registry's own address alone.
    const secure = isOwn || tls === null ? ownTlsOptions(tls) : { secureContext: tls.others };
    const options = {
      headersTimeout: headersMs,
      bodyTimeout: bodyMs,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connections: maxConnections,
      // Large bodies side by side: a connection each is faster than one connection's flow control.
      allowH2: false,
    };
    if (proxy === null) {
      return new Agent({ ...options, connect: { timeout: connectMs, lookup: this.guard.lookup, ...secure } });
    }
    return new ProxyAgent({
      ...options,
      uri: proxy.href,
      requestTls: { timeout: connectMs, ...secure },
      proxyTls: { timeout: connectMs },
      clientFactory: (origin, clientOptions) =>
        new Pool(origin, { ...clientOptions, headersTimeout: connectMs }),
    });
  }
}

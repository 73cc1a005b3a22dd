import { LRUCache } from 'lru-cache';
import { errorCode } from '../../format/error-code.ts';
import { OciError, RegistryError } from '../../oci/errors.ts';
import { RegistryClient } from '../../oci/registry-client.ts';
import type { RegistryTimeouts } from '../../oci/registry-connections.ts';
import type { RegistryTls } from '../../oci/registry-tls.ts';
import type { Identity, RepositoryAt, SourceCredentials } from './source-credentials.ts';

export interface ProxyEndpointOptions {
  readonly url: URL;
  readonly credentials: SourceCredentials;
  readonly tls?: RegistryTls | null;
  readonly timeouts?: Partial<RegistryTimeouts>;
  /** How long it is asked last after a failure. */
  readonly restMs?: number;
}

/** A proxy as it is now, for people. */
export interface ProxyState {
  readonly host: string;
  /** How long it is asked after the others still. */
  readonly restingMs: number;
  /** Why it was last passed over. */
  readonly lastError: string | null;
}

/** A proxy stands near: what takes longer than this is better asked of another one, or again. */
const TIMEOUTS: Partial<RegistryTimeouts> = {
  connectMs: 3_000,
  headersMs: 10_000,
  bodyMs: 10_000,
  progressWindowMs: 20_000,
};
const REST_MS = 10_000;
/** Rests after which it is still not well make the next one longer, up to so many times. */
const MAX_REST_DOUBLINGS = 5;
const MAX_CONNECTIONS = 48;
const MAX_CLIENTS = 1024;
/** What a proxy may say and still be well. */
const NO_FAILURES: ReadonlySet<string> = new Set([
  'ERR_REGISTRY_NOT_FOUND',
  'ERR_REGISTRY_UNAUTHORIZED',
  'ERR_REGISTRY_RATE_LIMITED',
]);

/** One dadi proxy: asked in the name of whoever it lets in. */
export class ProxyEndpoint {
  readonly host: string;
  readonly #credentials: SourceCredentials;
  readonly #restMs: number;
  readonly #client: RegistryClient;
  /** By registry and identity, over the same connections. */
  readonly #clients = new LRUCache<string, RegistryClient>({ max: MAX_CLIENTS });
  /** Who was let in last, by repository. */
  readonly #accepted = new LRUCache<string, string>({ max: MAX_CLIENTS });
  #restsUntilMs = Number.NEGATIVE_INFINITY;
  /** Since it was last well. */
  #rests = 0;
  #lastError: string | null = null;

  constructor({ url, credentials, tls = null, timeouts = {}, restMs = REST_MS }: ProxyEndpointOptions) {
    this.host = url.host;
    this.#credentials = credentials;
    this.#restMs = restMs;
    this.#client = new RegistryClient({
      baseUrl: url,
      tls,
      timeouts: { ...TIMEOUTS, ...timeouts },
      // Who asks knows other proxies, and how long it may take.
      retry: { retries: 0 },
      maxConnections: MAX_CONNECTIONS,
    });
  }

  get isResting(): boolean {
    return performance.now() < this.#restsUntilMs;
  }

  get state(): ProxyState {
    return {
      host: this.host,
      restingMs: Math.max(0, Math.ceil(this.#restsUntilMs - performance.now())),
      lastError: this.#lastError,
    };
  }

  /**
   * What `attempt` makes of the proxy, in the name of the first identity that it does not refuse.
   * @throws RegistryError; the signal's reason
   */
  async ask<T>(
    where: RepositoryAt,
    attempt: (client: RegistryClient) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const name = `${where.registry}/${where.repository}`;
    let refusal: unknown = null;
    // After a rest one asks it whether it is well, the others go on elsewhere until that is known: it may not answer.
    if (this.#rests > 0 && !this.isResting) this.#rest();
    for (const identity of await this.#identities(name, where, signal)) {
      try {
        const made = await attempt(this.#clientOf(where.registry, identity));
        this.#accepted.set(name, identity.id);
        this.#isWell();
        return made;
      } catch (error) {
        signal?.throwIfAborted();
        const code = errorCode(error);
        if (code === 'ERR_REGISTRY_UNAUTHORIZED' || code === 'ERR_REGISTRY_CREDENTIALS') {
          // The first one's: it is about the credentials that ought to do.
          refusal ??= error;
          continue;
        }
        this.failed(error);
        throw error;
      }
    }
    throw refusal;
  }

  /** To be told of what went wrong there: it rests, unless it only lacks the content or the right to it. */
  failed(error: unknown): void {
    if (!(error instanceof RegistryError || error instanceof OciError)) return;
    if (NO_FAILURES.has(error.code)) {
      this.#isWell();
      return;
    }
    this.#lastError = error.message;
    if (!this.isResting) this.#rest();
  }

  #isWell(): void {
    this.#rests = 0;
    this.#restsUntilMs = Number.NEGATIVE_INFINITY;
  }

  #rest(): void {
    const doublings = Math.min(this.#rests++, MAX_REST_DOUBLINGS);
    this.#restsUntilMs = performance.now() + this.#restMs * 2 ** doublings;
  }

  /** Ends running requests too. */
  close(): Promise<void> {
    return this.#client.close();
  }

  async #identities(
    name: string,
    where: RepositoryAt,
    signal: AbortSignal | undefined,
  ): Promise<readonly Identity[]> {
    const all = await this.#credentials.identities(where, this.host, signal);
    const accepted = all.find(({ id }) => id === this.#accepted.get(name));
    return accepted === undefined ? all : [accepted, ...all.filter((identity) => identity !== accepted)];
  }

  #clientOf(registry: string, { id, provider }: Identity): RegistryClient {
    const key = `${registry} ${id}`;
    let client = this.#clients.get(key);
    if (client === undefined) {
      client = this.#client.withCredentials(provider, { namespace: registry });
      this.#clients.set(key, client);
    }
    return client;
  }
}

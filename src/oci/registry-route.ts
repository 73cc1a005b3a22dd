import { errorCode } from '../format/error-code.ts';
import { OciError, RegistryError } from './errors.ts';
import type { RegistryQuota } from './rate-limits.ts';
import { type RetryPolicy, withRetries } from './registry-retry.ts';
import type { RegistryTransport } from './registry-transport.ts';

/** One place that a registry's content may come from, as it is now: for metrics and status pages. */
export interface EndpointState {
  /** Host and port. */
  readonly host: string;
  readonly isMirror: boolean;
  /** How long a mirror that failed is passed over. */
  readonly restingMs: number;
  /** How long the registry asked not to be asked for manifests; 0 if it did not. */
  readonly pausedMs: number;
  /** What it said last about how much may still be pulled. */
  readonly quota: RegistryQuota | null;
  /** Why it was last passed over. */
  readonly lastError: string | null;
}

/** A mirror that failed is passed over for this time, lest everybody finds out for himself. */
const REST_MS = 30_000;
/** There is another one to ask. */
const MIRROR_RETRY: RetryPolicy = { retries: 0, maxRetryAfterMs: 0 };
/** What a mirror may say and still be well: it lacks this content, or the right to it; limits it remembers itself. */
const NO_FAILURES: ReadonlySet<string> = new Set([
  'ERR_REGISTRY_NOT_FOUND',
  'ERR_REGISTRY_UNAUTHORIZED',
  'ERR_REGISTRY_RATE_LIMITED',
]);

/** A place that has a registry's content: the registry itself, or a mirror of it. */
export class Endpoint {
  readonly transport: RegistryTransport;
  /** Host and port. */
  readonly host: string;
  readonly isMirror: boolean;
  readonly #restMs: number;
  /** Added to each URL. */
  readonly #query: string;
  #restsUntilMs = 0;
  #lastError: string | null = null;

  /** @param namespace for a mirror of several registries: which one is meant (Distribution spec, "Registry Proxying") */
  constructor(
    transport: RegistryTransport,
    options: { readonly isMirror: boolean; readonly namespace?: string | null; readonly restMs?: number },
  ) {
    const { isMirror, namespace = null, restMs = REST_MS } = options;
    this.transport = transport;
    this.host = transport.connections.baseUrl.host;
    this.isMirror = isMirror;
    this.#restMs = restMs;
    this.#query = namespace === null ? '' : `ns=${encodeURIComponent(namespace)}`;
  }

  get isResting(): boolean {
    return performance.now() < this.#restsUntilMs;
  }

  get state(): EndpointState {
    const { limits } = this.transport;
    return {
      host: this.host,
      isMirror: this.isMirror,
      restingMs: Math.max(0, Math.ceil(this.#restsUntilMs - performance.now())),
      pausedMs: limits.pauseMs('pull'),
      quota: limits.quota,
      lastError: this.#lastError,
    };
  }

  /** A path below its address. */
  path(path: string): string {
    if (this.#query === '') return path;
    return `${path}${path.includes('?') ? '&' : '?'}${this.#query}`;
  }

  /** To be told of what went wrong there. */
  failed(error: unknown): void {
    this.#lastError = error instanceof Error ? error.message : String(error);
    if (this.isMirror && !NO_FAILURES.has(errorCode(error) ?? '')) {
      this.#restsUntilMs = performance.now() + this.#restMs;
    }
  }
}

/** Where a registry's content is asked for: its mirrors in their order, then the registry itself, whose word counts. */
export class RegistryRoute {
  readonly #mirrors: readonly Endpoint[];
  readonly #registry: Endpoint;
  readonly #retry: RetryPolicy;

  constructor(mirrors: readonly Endpoint[], registry: Endpoint, retry: RetryPolicy) {
    this.#mirrors = mirrors;
    this.#registry = registry;
    this.#retry = retry;
  }

  get states(): EndpointState[] {
    return [...this.#mirrors, this.#registry].map((endpoint) => endpoint.state);
  }

  /**
   * What `attempt` makes of the first of them that it succeeds with. Rejects with what it makes of the registry
   * itself or, once aborted, with the signal's reason.
   * @param retry what differs from the registry's own policy
   */
  async ask<T>(
    attempt: (endpoint: Endpoint) => Promise<T>,
    signal: AbortSignal | undefined,
    retry: Partial<RetryPolicy> = {},
  ): Promise<T> {
    for (const mirror of this.#mirrors) {
      if (mirror.isResting) continue;
      try {
        return await withRetries(() => attempt(mirror), MIRROR_RETRY, signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof RegistryError || error instanceof OciError)) throw error;
        mirror.failed(error);
      }
    }
    return withRetries(() => attempt(this.#registry), { ...this.#retry, ...retry }, signal);
  }
}

import { type RegistryContext, RegistryError } from './errors.ts';
import { type HttpResponse, header } from './registry-http.ts';

/** What a registry says of how much may still be pulled from it. */
export interface RegistryQuota {
  /** Pulls in a window; null if the registry does not say. */
  readonly limit: number | null;
  readonly remaining: number | null;
  readonly windowSeconds: number | null;
  /** When the registry said so, on the clock of `Date.now()`. */
  readonly observedAtMs: number;
}

/** What counts against limits of pulls: Docker Hub counts the GETs of manifests, nothing else. */
export type Counted = 'pull' | 'other';

/** Keeps what one identity was told by a registry about its limits, and keeps to it. */
export class RateLimits {
  #quota: RegistryQuota | null = null;
  /** Until when, on the clock of `performance.now()`. */
  readonly #pauses = new Map<Counted, number>();

  get quota(): RegistryQuota | null {
    return this.#quota;
  }

  /** How long nothing that counts is asked any more, 0 if it may be asked. */
  pauseMs(counted: Counted): number {
    const untilMs = Math.max(this.#pauses.get('other') ?? 0, this.#pauses.get(counted) ?? 0);
    return Math.max(0, Math.ceil(untilMs - performance.now()));
  }

  /** @throws RegistryError ERR_REGISTRY_RATE_LIMITED before the time at which the registry said to come back */
  check(counted: Counted, context: RegistryContext): void {
    const retryAfterMs = this.pauseMs(counted);
    if (retryAfterMs === 0) return;
    const seconds = Math.ceil(retryAfterMs / 1000);
    const message = `the registry asked for a pause, ${seconds} s of which are left; wait, or use credentials with a higher limit`;
    throw new RegistryError('ERR_REGISTRY_RATE_LIMITED', context, message, { status: 429, retryAfterMs });
  }

  /** To be told of every answer of the registry. */
  observe(response: HttpResponse): void {
    const limit = parseQuota(header(response, 'ratelimit-limit'));
    const remaining = parseQuota(header(response, 'ratelimit-remaining'));
    if (limit === null && remaining === null) return;
    this.#quota = {
      limit: limit?.count ?? null,
      remaining: remaining?.count ?? null,
      windowSeconds: limit?.windowSeconds ?? remaining?.windowSeconds ?? null,
      observedAtMs: Date.now(),
    };
  }

  /** To be told of what the registry refused: where it names a time, that is kept to. */
  refused(counted: Counted, error: RegistryError): void {
    if (error.code !== 'ERR_REGISTRY_RATE_LIMITED' || error.retryAfterMs === null) return;
    this.#pauses.set(counted, performance.now() + error.retryAfterMs);
  }
}

/** `100;w=21600`: a number, and in how many seconds (as Docker Hub sends it). */
function parseQuota(value: string | null): { count: number; windowSeconds: number | null } | null {
  const groups = /^\s*(?<count>\d{1,15})\s*(?:[;,].*?\bw=(?<window>\d{1,9})\b.*|[;,].*)?$/.exec(
    value ?? '',
  )?.groups;
  if (groups === undefined) return null;
  const window = groups['window'];
  return { count: Number(groups['count']), windowSeconds: window === undefined ? null : Number(window) };
}

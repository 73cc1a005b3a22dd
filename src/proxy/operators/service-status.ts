import type { RegistryQuota } from '../../oci/rate-limits.ts';
import type { EndpointState } from '../../oci/registry-route.ts';
import { type Answer, jsonAnswer } from '../../oci/serving/answer.ts';
import type { ConversionTable } from '../../store/conversion-table.ts';
import type { Blobs } from '../content/blobs.ts';
import type { Outages } from '../upstream/outages.ts';
import type { UpstreamState, Upstreams } from '../upstream/upstreams.ts';
import type { Metrics } from './metrics.ts';
import { isReady, type Readiness } from './readiness.ts';
import type { RecentPulls } from './recent-pulls.ts';

/** What the whole proxy's state is told from. */
export interface StatusParts {
  readonly version: string;
  readonly startedAtMs: number;
  readonly readiness: Readiness;
  readonly upstreams: Upstreams;
  readonly outages: Outages;
  readonly blobs: Blobs;
  readonly conversions: ConversionTable;
  readonly profile: string;
  readonly metrics: Metrics;
  readonly pulls: RecentPulls;
  readonly freeBytes: () => Promise<number>;
}

/** GET /dadi/v1/status: all of it in one, for scripts and the dashboard. */
export async function answerStatus(parts: StatusParts): Promise<Answer> {
  const { version, startedAtMs, readiness, upstreams, outages, blobs, metrics, pulls } = parts;
  const checks = await readiness.checks();
  const unless = <T>(value: Promise<T>) => value.catch(() => null);
  return jsonAnswer({
    version,
    startedAt: new Date(startedAtMs).toISOString(),
    uptimeSeconds: Math.round((Date.now() - startedAtMs) / 1000),
    isReady: isReady(checks),
    checks,
    upstreams: upstreams.states().map((state) => describeUpstream(state, outages.reason(state.name))),
    store: { freeBytes: await unless(parts.freeBytes()) },
    cache: await metrics.hits(),
    downloads: blobs.running(),
    conversions: await unless(parts.conversions.counts(parts.profile)),
    pulls: pulls.list(),
  });
}

function describeUpstream({ name, quota, endpoints }: UpstreamState, outage: string | null) {
  const pausedMs = endpoints.find(({ isMirror }) => !isMirror)?.pausedMs ?? 0;
  return {
    name,
    ...(outage === null ? describePause(pausedMs) : { state: 'unreachable', reason: outage }),
    quota: quota && describeQuota(quota),
    mirrors: endpoints.filter(({ isMirror }) => isMirror).map(describeMirror),
  };
}

function describePause(pausedMs: number) {
  if (pausedMs === 0) return { state: 'ok', reason: null };
  const seconds = Math.ceil(pausedMs / 1000);
  return { state: 'paused', reason: `it limits pulls, and is asked for manifests again in ${seconds} s` };
}

function describeQuota({ limit, remaining, windowSeconds, observedAtMs }: RegistryQuota) {
  return { limit, remaining, windowSeconds, observedAt: new Date(observedAtMs).toISOString() };
}

/** `reason` is why it was last passed over, also when it is well again. */
function describeMirror({ host, restingMs, pausedMs, quota, lastError }: EndpointState) {
  const state = restingMs > 0 ? 'resting' : describePause(pausedMs).state;
  return { host, state, reason: lastError, quota: quota && describeQuota(quota) };
}

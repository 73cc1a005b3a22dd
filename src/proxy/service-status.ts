import type { ConversionTable } from '../store/conversion-table.ts';
import { type Answer, jsonAnswer } from './answer.ts';
import type { Blobs } from './blobs.ts';
import type { Metrics } from './metrics.ts';
import type { Outages } from './outages.ts';
import { isReady, type Readiness } from './readiness.ts';
import type { RecentPulls } from './recent-pulls.ts';
import type { Upstreams } from './upstreams.ts';

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
    upstreams: upstreams.names().map((name) => {
      const reason = outages.reason(name);
      return { name, state: reason === null ? 'ok' : 'unreachable', reason };
    }),
    store: { freeBytes: await unless(parts.freeBytes()) },
    cache: await metrics.hits(),
    downloads: blobs.running(),
    conversions: await unless(parts.conversions.counts(parts.profile)),
    pulls: pulls.list(),
  });
}

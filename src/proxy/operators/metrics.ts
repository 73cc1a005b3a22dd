import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { ExchangeObserver } from '../../oci/exchange-observer.ts';
import type { RegistryQuota } from '../../oci/rate-limits.ts';
import { type Answer, bufferAnswer } from '../../oci/serving/answer.ts';
import type { EndedRequest } from '../../oci/serving/http-side.ts';
import { watchMesh } from '../../p2p/root/mesh-metrics.ts';
import type { MeshRoot } from '../../p2p/root/mesh-root.ts';
import type { ConversionState } from '../../store/conversion-table.ts';
import type { UpstreamState } from '../upstream/upstreams.ts';

const PREFIX = 'dadi_proxy_';
const OTHER_UPSTREAM = '(allowed)';
const ANSWER_SECONDS = [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300];
const CONVERSION_SECONDS = [1, 5, 15, 60, 300, 900, 3600];
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'DELETE']);

/** How a request to an upstream ended. */
type UpstreamOutcome = 'ok' | 'not_found' | 'refused' | 'rate_limited' | 'failed' | 'unreachable';

/** What is asked for when somebody looks, not counted before. */
export interface MetricSources {
  readonly conversions: () => Promise<Readonly<Record<ConversionState, number>>>;
  readonly runningDownloads: () => number;
  readonly upstreams: () => readonly UpstreamState[];
  /** Since the start. */
  readonly catalogFailures: () => number;
  readonly freeBytes: () => Promise<number>;
  /** Null where there is no root of the mesh. */
  readonly mesh: MeshRoot | null;
  readonly cacheBytes: () => Promise<number>;
  /** Since the start. */
  readonly cleaning: () => { readonly collections: number; readonly freedBytes: number };
}

/**
 * What the proxy counts, in a registry of its own. Labels have few values: no repository, digest or client is one.
 * docs/proxy.md lists all of them; a test compares.
 */
export class Metrics {
  readonly #registry = new Registry();
  /** Those with an observer. Other names come from requests: as labels they would have no end. */
  readonly #upstreams = new Set<string>();
  readonly #requests = this.#counter(
    'http_requests_total',
    'Requests, by what they asked for and how it ended.',
    ['kind', 'method', 'status'],
  );
  readonly #durations = this.#histogram(
    'http_request_duration_seconds',
    'Time from a request to the end of its answer.',
    ['kind'],
    ANSWER_SECONDS,
  );
  readonly #pulls = this.#counter('pulls_total', 'Manifests that were got (GET).', ['upstream']);
  readonly #sent = this.#counter(
    'sent_bytes_total',
    'Bytes of manifests and blobs sent to clients, headers included, by where they came from.',
    ['source'],
  );
  readonly #cache = this.#counter(
    'cache_requests_total',
    'Answered GET requests for manifests and blobs, by whether they were kept here already.',
    ['kind', 'result'],
  );
  readonly #passed = this.#counter(
    'passed_blobs_total',
    'Answered GET requests for blobs that could not be kept for want of room.',
    [],
  );
  readonly #upstreamRequests = this.#counter(
    'upstream_requests_total',
    'Requests to upstreams, token services included.',
    ['upstream', 'outcome'],
  );
  readonly #upstreamDurations = this.#histogram(
    'upstream_request_duration_seconds',
    "Time from a request to an upstream to its answer's headers.",
    ['upstream'],
    ANSWER_SECONDS,
  );
  readonly #received = this.#counter(
    'upstream_received_bytes_total',
    'Bytes of bodies that upstreams sent.',
    ['upstream'],
  );
  readonly #conversions = this.#counter('conversions_ended_total', 'Conversions that ended.', ['outcome']);
  readonly #conversionDurations = this.#histogram(
    'conversion_duration_seconds',
    'Time that finished conversions took.',
    [],
    CONVERSION_SECONDS,
  );
  readonly #convertedBytes = this.#counter(
    'converted_layer_bytes_total',
    'Bytes of original layers in finished conversions.',
    [],
  );

  constructor() {
    collectDefaultMetrics({ register: this.#registry });
  }

  requestEnded({ method, status, sentBytes, durationMs, notes }: EndedRequest): void {
    const { kind, upstream, source } = notes;
    const labels = { kind, method: METHODS.has(method) ? method : 'other', status: statusClass(status) };
    this.#requests.inc(labels);
    this.#durations.observe({ kind }, durationMs / 1000);
    if (source !== undefined) this.#sent.inc({ source }, sentBytes);
    if (method !== 'GET' || status === null || status >= 300 || upstream === undefined) return;
    if (kind === 'manifest') {
      this.#pulls.inc({ upstream: this.#upstreams.has(upstream) ? upstream : OTHER_UPSTREAM });
    }
    if (source === undefined) return;
    if (kind === 'blob' && source === 'upstream') this.#passed.inc();
    const isHit = source === 'cache' || source === 'converted';
    this.#cache.inc({ kind, result: isHit ? 'hit' : 'miss' });
  }

  /** What counts the requests to an upstream. */
  observer(upstream: string): ExchangeObserver {
    this.#upstreams.add(upstream);
    return {
      answered: (status, durationMs) => {
        this.#upstreamRequests.inc({ upstream, outcome: upstreamOutcome(status) });
        this.#upstreamDurations.observe({ upstream }, durationMs / 1000);
      },
      received: (bytes) => this.#received.inc({ upstream }, bytes),
    };
  }

  /** `layerBytes` of the original image. */
  conversionDone(durationMs: number, layerBytes: number): void {
    this.#conversions.inc({ outcome: 'done' });
    this.#conversionDurations.observe(durationMs / 1000);
    this.#convertedBytes.inc(layerBytes);
  }

  conversionFailed(): void {
    this.#conversions.inc({ outcome: 'failed' });
  }

  /** To be called once, when the parts are there. */
  watch({
    conversions,
    runningDownloads,
    upstreams,
    catalogFailures,
    freeBytes,
    mesh,
    ...cache
  }: MetricSources): void {
    this.#gauge(
      'conversions',
      'Images and indexes by the state of their conversion.',
      ['state'],
      async (set) => {
        for (const [state, count] of Object.entries(await conversions())) set(count, { state });
      },
    );
    this.#gauge('running_downloads', 'Blobs that are on their way from upstreams.', [], async (set) =>
      set(runningDownloads()),
    );
    this.#quotas(upstreams);
    this.#counted('catalog_errors_total', 'Questions to the catalog that failed.', catalogFailures);
    this.#counted('cache_collections_total', 'Times that the cache was cleaned up.', () => {
      return cache.cleaning().collections;
    });
    this.#counted('cache_freed_bytes_total', 'Bytes of blobs that cleaning up removed.', () => {
      return cache.cleaning().freedBytes;
    });
    this.#gauge('cache_bytes', 'Bytes of all blobs that are kept.', [], async (set) =>
      set(await cache.cacheBytes()),
    );
    this.#gauge('store_free_bytes', 'Bytes that are free where blobs are kept.', [], async (set) =>
      set(await freeBytes()),
    );
    if (mesh !== null) watchMesh(this.#registry, PREFIX, mesh);
  }

  /** GET /metrics, in Prometheus' text format. */
  async answer(): Promise<Answer> {
    const body = Buffer.from(await this.#registry.metrics());
    return bufferAnswer(200, body, { 'content-type': this.#registry.contentType });
  }

  /** Answered GET requests so far that found what they asked for here, and that did not. */
  async hits(): Promise<{ readonly hits: number; readonly misses: number }> {
    const { values } = await this.#cache.get();
    const sum = (result: string) =>
      values
        .filter(({ labels }) => labels['result'] === result)
        .reduce((total, { value }) => total + value, 0);
    return { hits: sum('hit'), misses: sum('miss') };
  }

  #quotas(upstreams: MetricSources['upstreams']): void {
    const gauge = (name: string, help: string, read: (quota: RegistryQuota) => number | null) =>
      this.#gauge(name, help, ['upstream'], async (set) => {
        for (const { name: upstream, quota } of upstreams()) {
          const value = quota && read(quota);
          if (value !== null) set(value, { upstream });
        }
      });
    gauge('upstream_quota_limit', 'Pulls that an upstream allows in its window.', ({ limit }) => limit);
    gauge('upstream_quota_remaining', 'How many of them were left when it last said so.', ({ remaining }) => {
      return remaining;
    });
  }

  #counter<Label extends string>(name: string, help: string, labelNames: readonly Label[]): Counter<Label> {
    return new Counter({ name: `${PREFIX}${name}`, help, labelNames, registers: [this.#registry] });
  }

  /** Of what is counted elsewhere. */
  #counted(name: string, help: string, count: () => number): void {
    new Counter({
      name: `${PREFIX}${name}`,
      help,
      registers: [this.#registry],
      collect() {
        this.reset();
        this.inc(count());
      },
    });
  }

  #histogram<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    buckets: readonly number[],
  ): Histogram<Label> {
    const registers = [this.#registry];
    return new Histogram({ name: `${PREFIX}${name}`, help, labelNames, buckets: [...buckets], registers });
  }

  /** `read` is called at each look; values that it does not set any more are gone. What fails is left out. */
  #gauge<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    read: (set: (value: number, labels?: Partial<Record<Label, string>>) => void) => Promise<void>,
  ): void {
    new Gauge({
      name: `${PREFIX}${name}`,
      help,
      labelNames,
      registers: [this.#registry],
      async collect() {
        this.reset();
        await read((value, labels = {}) => this.set(labels, value)).catch(() => this.remove());
      },
    });
  }
}

function upstreamOutcome(status: number | null): UpstreamOutcome {
  if (status === null) return 'unreachable';
  if (status < 400) return 'ok';
  if (status === 401 || status === 403) return 'refused';
  if (status === 404) return 'not_found';
  return status === 429 ? 'rate_limited' : 'failed';
}

function statusClass(status: number | null): string {
  return status === null ? 'none' : `${Math.floor(status / 100)}xx`;
}

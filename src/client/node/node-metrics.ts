import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { EndedRequest } from '../../oci/serving/http-side.ts';
import type { MeshStatus } from '../../p2p/agent/mesh.ts';
import type { CacheFigures } from '../chunks/chunk-cache.ts';
import type { ReadStats } from '../chunks/read-stats.ts';
import type { MountStatus, NodeStatus } from './node-status.ts';

/**
 * The event loop is woken so often to see whether it is late, and its lag is told with that time in it; ten times as often costs
 * an idle host 0.7 % of a processor.
 */
const LOOP_PRECISION_MS = 100;
const PREFIX = 'dadi_node_';
const ANSWER_SECONDS = [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300];
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD']);

const COUNTED = [
  ...(['bytesFetched', 'chunksFetched', 'bytesFromMesh', 'chunksFromMesh'] as const),
  ...(['cacheHits', 'bytesFromCache', 'bytesRead', 'readErrors'] as const),
];
type Counted = (typeof COUNTED)[number];

/** What is asked for when somebody looks. */
export interface MetricSources {
  readonly mounts: () => readonly MountStatus[];
  readonly proxies: () => NodeStatus['proxies'];
  readonly cache: () => CacheFigures;
  /** Null: this host takes no part in it. */
  readonly mesh: (() => MeshStatus) | null;
  /** What blobs cost that pulls read through the cache; null without a mirror. */
  readonly mirror: () => Readonly<ReadStats> | null;
}

/**
 * What the daemon counts. Labels have few values: a mount is none, since its counts would end with it; the sums over
 * all mounts go on. docs/node.md lists all of them; a test compares.
 */
export class NodeMetrics {
  readonly #registry = new Registry();
  readonly #sources: MetricSources;
  readonly #mirrorRequests = new Counter({
    name: `${PREFIX}mirror_requests_total`,
    help: 'Requests to the mirror, by what they asked for and how it ended.',
    labelNames: ['kind', 'method', 'status'],
    registers: [this.#registry],
  });
  readonly #mirrorSent = new Counter({
    name: `${PREFIX}mirror_sent_bytes_total`,
    help: 'Bytes of manifests and blobs that the mirror sent, headers included, by where they came from.',
    labelNames: ['source'],
    registers: [this.#registry],
  });
  readonly #mirrorDurations = new Histogram({
    name: `${PREFIX}mirror_request_duration_seconds`,
    help: 'Time from a request to the mirror to the end of its answer.',
    labelNames: ['kind'],
    buckets: ANSWER_SECONDS,
    registers: [this.#registry],
  });
  /** Of mounts that are gone. */
  readonly #past: Record<Counted, number> = {
    ...{ bytesFetched: 0, chunksFetched: 0, bytesFromMesh: 0, chunksFromMesh: 0 },
    ...{ cacheHits: 0, bytesFromCache: 0, bytesRead: 0, readErrors: 0 },
  };

  constructor(sources: MetricSources) {
    this.#sources = sources;
    collectDefaultMetrics({
      ...{ register: this.#registry, prefix: PREFIX },
      eventLoopMonitoringPrecision: LOOP_PRECISION_MS,
    });
    this.#gauge('mounts', 'Mounted chains of layers.', () => sources.mounts().length);
    this.#gauge('reads_under_way', 'Reads of mounted images that wait for an answer.', () =>
      sources.mounts().reduce((sum, mount) => sum + mount.readsUnderWay, 0),
    );
    this.#gauge(
      'mounts_unopened',
      'Mounted chains that wait for a proxy to be opened again.',
      () => sources.mounts().filter(({ isOpen }) => !isOpen).length,
    );
    this.#gauge(
      'proxies_resting',
      'Proxies that failed and are asked last for a while.',
      () => sources.proxies().filter(({ restingMs }) => restingMs > 0).length,
    );
    this.#gauge('cache_bytes', 'Bytes on disk of the chunk cache.', () => sources.cache().heldBytes);
    this.#gauge('cache_max_bytes', 'Its bound.', () => sources.cache().maxBytes ?? 0);
    this.#counted(
      'cache_evicted_chunks_total',
      'Chunks dropped to make room.',
      () => sources.cache().evicted,
    );
    this.#counted('cache_healed_chunks_total', 'Chunks found on disk with wrong bytes.', () => {
      return sources.cache().healed;
    });
    this.#counted(
      'mirror_fetched_bytes_total',
      'Bytes of blobs that came from proxies chunk by chunk, for pulls.',
      () => sources.mirror()?.bytesFetched ?? 0,
    );
    this.#counted(
      'mirror_cache_hits_total',
      'Chunks that pulls found in the cache.',
      () => sources.mirror()?.cacheHits ?? 0,
    );
    this.#sum('fetched_bytes_total', 'Bytes of layers that came from proxies.', 'bytesFetched');
    this.#sum('fetched_chunks_total', 'Chunks that came from proxies and were right.', 'chunksFetched');
    this.#sum('peer_bytes_total', 'Bytes of layers that came from other hosts.', 'bytesFromMesh');
    this.#sum('peer_chunks_total', 'Chunks that came from other hosts.', 'chunksFromMesh');
    this.#sum('cache_hits_total', 'Chunks that reads found in the cache.', 'cacheHits');
    this.#sum('cache_hit_bytes_total', 'Bytes that reads took from the cache.', 'bytesFromCache');
    this.#sum('read_bytes_total', 'Bytes of layers that mounted images were read from.', 'bytesRead');
    this.#sum('read_errors_total', 'Reads of mounted images that failed (EIO).', 'readErrors');
    if (sources.mesh !== null) this.#meshMetrics(sources.mesh);
  }

  /** Keeps what a mount counted that ends. */
  ended(mount: MountStatus): void {
    for (const key of COUNTED) this.#past[key] += mount[key];
  }

  /** Counts a request to the mirror that is over. */
  mirrorRequestEnded({ method, status, sentBytes, durationMs, notes: { kind, source } }: EndedRequest): void {
    this.#mirrorRequests.inc({
      kind,
      method: METHODS.has(method) ? method : 'other',
      status: status === null ? 'none' : `${Math.trunc(status / 100)}xx`,
    });
    this.#mirrorDurations.observe({ kind }, durationMs / 1000);
    if (source !== undefined) this.#mirrorSent.inc({ source }, sentBytes);
  }

  /** In Prometheus' text format. */
  async answer(): Promise<{ readonly contentType: string; readonly text: string }> {
    return { contentType: this.#registry.contentType, text: await this.#registry.metrics() };
  }

  #meshMetrics(status: () => MeshStatus): void {
    const counts = () => status().counts;
    this.#gauge('mesh_trees', 'Trees in which this host has a place.', () => {
      return status().trees.filter(({ place }) => place !== null).length;
    });
    this.#gauge('mesh_depth', 'Its deepest place: 1 at the top.', () => {
      return Math.max(0, ...status().trees.map(({ place }) => place?.depth ?? 0));
    });
    this.#gauge('mesh_children', 'Hosts that are being sent something.', () => status().children);
    this.#counted('mesh_received_bytes_total', 'Bytes from other hosts.', () => counts().receivedBytes);
    this.#counted('mesh_sent_bytes_total', 'Bytes to other hosts.', () => counts().sentBytes);
    this.#counted('mesh_missed_chunks_total', 'Chunks that other hosts did not give in time.', () => {
      return counts().missedChunks;
    });
    this.#counted('mesh_hedges_total', 'Second requests for what was slow.', () => counts().hedges);
    this.#counted('mesh_wrong_chunks_total', 'Wrong chunks from other hosts.', () => counts().wrongChunks);
    this.#labelled('mesh_left_total', 'Hosts that were left for others.', 'reason', () => counts().left);
    this.#labelled('mesh_refused_total', 'Requests of others that were refused.', 'reason', () => {
      const { refusedBusy: busy, refusedTicket: ticket } = counts();
      return { busy, ticket };
    });
  }

  #gauge(name: string, help: string, read: () => number): void {
    new Gauge({
      name: `${PREFIX}${name}`,
      help,
      registers: [this.#registry],
      collect() {
        this.set(read());
      },
    });
  }

  #sum(name: string, help: string, key: Counted): void {
    this.#counted(name, help, () =>
      this.#sources.mounts().reduce((sum, mount) => sum + mount[key], this.#past[key]),
    );
  }

  /** By a label's value. */
  #labelled(name: string, help: string, label: string, counts: () => Readonly<Record<string, number>>): void {
    new Counter({
      name: `${PREFIX}${name}`,
      help,
      labelNames: [label],
      registers: [this.#registry],
      collect() {
        this.reset();
        for (const [value, count] of Object.entries(counts())) this.inc({ [label]: value }, count);
      },
    });
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
}

import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { HttpProxies } from '../oci/http-proxies.ts';
import { openListener } from '../oci/serving/configured-listener.ts';
import { type EndedRequest, HttpSide, type Route } from '../oci/serving/http-side.ts';
import type { Address } from '../oci/serving/listener.ts';
import { refuseOtherHosts } from '../oci/serving/own-hosts.ts';
import { Catalog } from '../store/catalog.ts';
import { openAccess, warnOfPlainCredentials } from './access/configured-access.ts';
import { CacheService } from './cache/cache-service.ts';
import { Preheater } from './cache/preheater.ts';
import type { ProxyConfig } from './config.ts';
import { Blobs } from './content/blobs.ts';
import { ChunkTables } from './content/chunk-tables.ts';
import { Manifests } from './content/manifests.ts';
import { ConversionEvents } from './conversion/conversion-events.ts';
import { openConversion } from './conversion/open-conversion.ts';
import { WholeImages } from './conversion/whole-images.ts';
import { ReferrerLists } from './distribution/referrer-lists.ts';
import { proxyErrorAnswer } from './errors.ts';
import { type ConfigChange, LiveConfig } from './live-config.ts';
import { openMesh } from './mesh/open-mesh.ts';
import { Opened } from './opened.ts';
import { Metrics } from './operators/metrics.ts';
import { Readiness } from './operators/readiness.ts';
import { RecentPulls } from './operators/recent-pulls.ts';
import { adminRoutes, clientRoutes } from './routes.ts';
import { openBlobStore } from './storage.ts';
import { NegativeAnswers } from './upstream/negative-answers.ts';
import { Outages } from './upstream/outages.ts';
import { openUpstreams } from './upstream/upstream-clients.ts';

const ADMIN_GRACE_MS = 1_000;

export interface RunningProxy {
  readonly address: Address;
  /** Where operators ask; null if that is switched off. */
  readonly adminAddress: Address | null;
  /** Takes over what of a new configuration can count at once; the log level is the caller's, as the log is. */
  reload(config: ProxyConfig): ConfigChange;
  /** Ends in order: no new requests, running ones to their end or a grace time, conversion, store, catalog. */
  close(): Promise<void>;
}

export interface Surroundings {
  readonly log: Logger;
  /** Of this program, for people. */
  readonly version: string;
  /** On the way to upstreams; none if left out. */
  readonly proxies?: HttpProxies | null;
}

/**
 * Starts the proxy. What it opens it closes again if it fails.
 * @throws ConfigError (the address is taken, a file cannot be read), StoreError (the data directory is in use or
 *   cannot be written)
 */
export async function startProxy(config: ProxyConfig, around: Surroundings): Promise<RunningProxy> {
  const opened = new Opened();
  const live = new LiveConfig(config);
  const { log } = around;
  try {
    const { address, adminAddress } = await openAll(live, around, opened);
    log.info({ ...address, admin: adminAddress, dataDirectory: config.dataDirectory }, 'proxy is listening');
    const reload = (next: ProxyConfig) => live.replace(next);
    return { address, adminAddress, reload, close: () => opened.close() };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function openAll(
  live: LiveConfig,
  { log, version, proxies = null }: Surroundings,
  opened: Opened,
): Promise<Pick<RunningProxy, 'address' | 'adminAddress'>> {
  const config = live.current;
  const startedAtMs = Date.now();
  const blobStore = await openBlobStore(config);
  opened.add(() => blobStore.close());
  const catalog = await openCatalog(config);
  opened.add(() => catalog.close());
  const cache = new CacheService({
    ...{ store: blobStore, catalog, log, config: () => live.current.cache },
    directory: config.storage.kind === 'directory' ? blobStore.scratch() : null,
  });
  opened.add(() => cache.close());
  const { store, collector } = cache;
  const metrics = new Metrics();
  const upstreams = openUpstreams(live, { metrics, proxies, log });
  opened.add(() => upstreams.close());

  const stop = new AbortController();
  const { signal } = stop;
  const outages = new Outages();
  const access = await openAccess(config, { upstreams, outages, signal, log, opened });
  const hidesOthers = access.isPerRepository;
  const negatives = new NegativeAnswers(() => live.current.cache.notFoundTtlMs);
  const ttlMs = () => live.current.tagTtlMs;
  const manifests = new Manifests({
    ...{ store, catalog, outages, negatives, log, signal },
    tagTtlMs: ttlMs,
    trustsNames: !hidesOthers,
  });
  opened.add(() => manifests.close());
  const referrers = new ReferrerLists({ store, catalog, manifests, ttlMs, outages, log, signal });
  const blobs = new Blobs({
    ...{ store, catalog, negatives, hidesOthers, log, signal },
    onNotKept: (failure, wantedBytes) => cache.notKept(failure, wantedBytes),
  });
  opened.add(() => blobs.close());

  const conversionParts = { store, catalog, access, manifests, blobs, metrics, signal, log };
  const { queue, images, news, profile } = openConversion(config, conversionParts, opened);
  const { conversions } = catalog;
  const { enabled } = config.conversion;
  const conversion = enabled ? { queue, images } : null;

  const parts = { access, upstreams, manifests, blobs, referrers, catalog, conversion, log };
  const mesh = await openMesh(config, parts);
  const readiness = new Readiness({ store, catalog });
  const pulls = new RecentPulls();
  const freeBytes = () => freeBytesOf(store.scratch());
  metrics.watch({
    conversions: () => conversions.counts(profile),
    cleaning: () => cache.counts,
    cacheBytes: async () => (await catalog.blobs.totals()).sizeBytes,
    runningDownloads: () => blobs.running().length,
    upstreams: () => upstreams.states(),
    catalogFailures: () => catalog.failures,
    mesh: mesh?.root ?? null,
    freeBytes,
  });
  const onEnd = (request: EndedRequest) => {
    metrics.requestEnded(request);
    pulls.requestEnded(request);
  };
  const http = { log, onEnd, errorAnswer: proxyErrorAnswer };
  const conversionStatus = { conversions, profile, queue, events: new ConversionEvents(news) };
  const chains = enabled ? { ...parts, images, store, profile, queue, news, whole: new WholeImages() } : null;
  const seen = { version, startedAtMs, readiness, upstreams, outages, blobs, metrics, pulls, freeBytes };
  const served = { ...parts, tables: new ChunkTables(signal) };
  const clients = new HttpSide(clientRoutes(served, conversionStatus, chains, mesh, readiness), http);
  opened.add(() => clients.idle());
  const preheater = new Preheater({
    upstreams,
    manifests,
    blobs,
    queue: enabled ? queue : null,
    log,
    signal,
  });
  opened.add(() => preheater.idle());
  opened.add(() => stop.abort(new Error('the proxy is being stopped')));
  opened.add(() => queue.stop());
  const { recorder } = cache;
  const cacheParts = { catalog, collector, recorder, upstreams, profile, preheater };
  const operators = adminRoutes(
    conversionStatus,
    { ...seen, conversions, profile },
    cacheParts,
    mesh?.root ?? null,
  );
  // Open until the others are done: that it is being stopped can be asked here.
  const adminAddress = await openAdmin(config, operators, http, opened);
  const listener = await openListener(clients, config.listen, 'listen', {
    log,
    tls: config.tls,
    ...config.connections,
  });
  warnOfPlainCredentials(config, log);
  opened.add(() => listener.close(live.current.drainMs));
  opened.add(() => news.close());
  opened.add(() => readiness.stopping());
  cache.start();
  if (enabled) queue.start();
  return { address: listener.address, adminAddress };
}

async function openAdmin(
  { admin, connections }: ProxyConfig,
  routes: readonly Route[],
  parts: ConstructorParameters<typeof HttpSide>[1],
  opened: Opened,
): Promise<Address | null> {
  if (admin === null) return null;
  const refuse = refuseOtherHosts([admin.listen.host, ...admin.hosts], 'see admin.hosts');
  const operators = new HttpSide(routes, { ...parts, refuse });
  const listener = await openListener(operators, admin.listen, 'admin.listen', {
    log: parts.log,
    tls: null,
    ...connections,
  });
  opened.add(() => listener.close(ADMIN_GRACE_MS));
  return listener.address;
}

function openCatalog({ catalog, dataDirectory }: ProxyConfig): Promise<Catalog> {
  switch (catalog.kind) {
    case 'sqlite':
      return Catalog.openSqlite(join(dataDirectory, 'catalog.db'));
    case 'postgres':
      return Catalog.openPostgres(catalog);
  }
}

async function freeBytesOf(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

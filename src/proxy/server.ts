import { join } from 'node:path';
import type { Logger } from 'pino';
import { conversionPolicy } from '../convert/conversion-policy.ts';
import { LayerWorkers } from '../convert/layer-workers.ts';
import { DEFAULT_PROFILE, profileId } from '../convert/profile.ts';
import { RegistryClient } from '../oci/registry-client.ts';
import { registryUrl } from '../oci/registry-url.ts';
import { Catalog } from '../store/catalog.ts';
import { DirectoryBlobStore } from '../store/directory-blob-store.ts';
import { Blobs } from './blobs.ts';
import type { ProxyConfig, UpstreamConfig } from './config.ts';
import { ConversionQueue } from './conversion-queue.ts';
import { ConvertedImages } from './converted.ts';
import { HttpSide, type Route } from './http.ts';
import { imageConverter } from './image-converter.ts';
import { type Address, Listener } from './listener.ts';
import { Manifests } from './manifests.ts';
import { Opened } from './opened.ts';
import { Outages } from './outages.ts';
import { Readiness } from './readiness.ts';
import { ReferrerLists } from './referrer-lists.ts';
import { adminRoutes, clientRoutes } from './routes.ts';
import { type Upstream, Upstreams } from './upstreams.ts';

/** How long running answers may go on after a stop was asked for. */
const GRACE_MS = 5_000;
const ADMIN_GRACE_MS = 1_000;

export interface RunningProxy {
  readonly address: Address;
  /** Where operators ask; null if that is switched off. */
  readonly adminAddress: Address | null;
  /** Ends in order: no new requests, running ones to their end or a grace time, conversion, store, catalog. */
  close(): Promise<void>;
}

/**
 * Starts the proxy. What it opens it closes again if it fails.
 * @throws ConfigError (the address is taken), StoreError (the data directory is in use or cannot be written)
 */
export async function startProxy(config: ProxyConfig, { log }: { log: Logger }): Promise<RunningProxy> {
  const opened = new Opened();
  try {
    const { address, adminAddress } = await openAll(config, log, opened);
    log.info({ ...address, admin: adminAddress, dataDirectory: config.dataDirectory }, 'proxy is listening');
    return { address, adminAddress, close: () => opened.close() };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function openAll(
  config: ProxyConfig,
  log: Logger,
  opened: Opened,
): Promise<Omit<RunningProxy, 'close'>> {
  const store = await DirectoryBlobStore.open(config.dataDirectory);
  opened.add(() => store.close());
  const catalog = await openCatalog(config);
  opened.add(() => catalog.close());
  const upstreams = new Upstreams(config.upstreams.map(openUpstream), config.defaultUpstream);
  opened.add(() => upstreams.close());

  const stop = new AbortController();
  const { signal } = stop;
  const outages = new Outages();
  const manifests = new Manifests({ store, catalog, tagTtlMs: config.tagTtlMs, outages, log, signal });
  const ttlMs = config.tagTtlMs;
  const referrers = new ReferrerLists({ store, catalog, manifests, ttlMs, outages, log, signal });
  const blobs = new Blobs({ store, catalog, log, signal });
  opened.add(() => blobs.close());

  const { enabled, concurrency, limits, ...options } = config.conversion;
  const workers = new LayerWorkers(concurrency);
  opened.add(() => workers.close());
  const context = { store, catalog, workers, limits, profile: { ...DEFAULT_PROFILE, ...options } };
  const profile = profileId(context.profile);
  const { conversions } = catalog;
  const convert = imageConverter({ upstreams, manifests, blobs, conversions, context });
  const policy = conversionPolicy(limits);
  const { indexImages } = limits;
  const queue = new ConversionQueue({ catalog, profile, policy, indexImages, convert, log });
  const images = new ConvertedImages({ catalog, manifests, queue, profile });
  const conversion = enabled ? { queue, images } : null;

  const parts = { upstreams, manifests, blobs, referrers, catalog, conversion, log };
  const readiness = new Readiness({ store, catalog });
  const status = { conversions, profile, queue };
  const onEnd = () => {};
  const clients = new HttpSide(clientRoutes(parts, status, readiness), { log, onEnd });
  opened.add(() => clients.idle());
  opened.add(() => stop.abort(new Error('the proxy is being stopped')));
  opened.add(() => queue.stop());
  const listener = await Listener.open(clients, config.listen, 'listen');
  opened.add(() => listener.close(GRACE_MS));
  const adminAddress = await openAdmin(config, adminRoutes(status, readiness), { log, onEnd }, opened);
  opened.add(() => readiness.stopping());
  if (enabled) queue.start();
  return { address: listener.address, adminAddress };
}

async function openAdmin(
  { admin }: ProxyConfig,
  routes: readonly Route[],
  parts: ConstructorParameters<typeof HttpSide>[1],
  opened: Opened,
): Promise<Address | null> {
  if (admin === null) return null;
  const operators = new HttpSide(routes, parts);
  const listener = await Listener.open(operators, admin.listen, 'admin.listen');
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

function openUpstream({ name, url, credentials }: UpstreamConfig): Upstream {
  const baseUrl = url === undefined ? registryUrl(name) : new URL(url);
  return { name, client: new RegistryClient({ baseUrl, credentials: credentials ?? null }) };
}

import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { getRequestListener } from '@hono/node-server';
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
import { answerDistribution } from './distribution.ts';
import { ConfigError } from './errors.ts';
import { HttpSide } from './http.ts';
import { imageConverter } from './image-converter.ts';
import { Manifests } from './manifests.ts';
import { Opened } from './opened.ts';
import { Outages } from './outages.ts';
import { answerConversion, answerConversions, answerRetry } from './status.ts';
import { type Upstream, Upstreams } from './upstreams.ts';

/** How long running answers may go on after a stop was asked for. */
const GRACE_MS = 5_000;
/** Longer than clients and load balancers keep connections: theirs to close. */
const KEEP_ALIVE_MS = 75_000;

export interface RunningProxy {
  readonly address: { readonly host: string; readonly port: number };
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
    const server = await openAll(config, log, opened);
    const address = addressOf(server);
    log.info({ ...address, dataDirectory: config.dataDirectory }, 'proxy is listening');
    return { address, close: () => opened.close() };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function openAll(config: ProxyConfig, log: Logger, opened: Opened): Promise<Server> {
  const store = await DirectoryBlobStore.open(config.dataDirectory);
  opened.add(() => store.close());
  const catalog = Catalog.open(join(config.dataDirectory, 'catalog.db'));
  opened.add(() => catalog.close());
  const upstreams = new Upstreams(config.upstreams.map(openUpstream), config.defaultUpstream);
  opened.add(() => upstreams.close());

  const stop = new AbortController();
  const { signal } = stop;
  const outages = new Outages();
  const manifests = new Manifests({ store, catalog, tagTtlMs: config.tagTtlMs, outages, log, signal });
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

  const parts = { upstreams, manifests, blobs, catalog, outages, conversion, log };
  const http = new HttpSide(
    {
      distribution: (request) => answerDistribution(parts, request),
      conversions: (query) => answerConversions(conversions, query),
      conversion: (digest) => answerConversion(conversions, profile, digest),
      retry: (digest) => answerRetry(conversions, profile, queue, digest),
    },
    log,
  );
  opened.add(() => http.idle());
  opened.add(() => stop.abort(new Error('the proxy is being stopped')));
  opened.add(() => queue.stop());
  const server = await listen(http, config.listen);
  opened.add(() => closeServer(server));
  if (enabled) queue.start();
  return server;
}

function openUpstream({ name, url, credentials }: UpstreamConfig): Upstream {
  const baseUrl = url === undefined ? registryUrl(name) : new URL(url);
  return { name, client: new RegistryClient({ baseUrl, credentials: credentials ?? null }) };
}

async function listen(http: HttpSide, { host, port }: ProxyConfig['listen']): Promise<Server> {
  // Answers are written to Node's own response: the replaced global classes would only be in the way.
  const listener = getRequestListener(http.fetch, { overrideGlobalObjects: false });
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, listener);
  server.listen(port, host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ConfigError(`listen: cannot listen on ${host}:${port} (${reason}); choose another address`, {
      cause,
    });
  }
  return server;
}

function addressOf(server: Server): { host: string; port: number } {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server has no TCP address');
  return { host: address.address, port: address.port };
}

async function closeServer(server: Server): Promise<void> {
  const closed = once(server, 'close');
  server.close();
  const timer = setTimeout(() => server.closeAllConnections(), GRACE_MS);
  await closed;
  clearTimeout(timer);
}

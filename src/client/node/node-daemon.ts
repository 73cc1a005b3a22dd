import { join } from 'node:path';
import { pid } from 'node:process';
import type { Logger } from 'pino';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type RegistryTls, readRegistryTls } from '../../oci/registry-tls.ts';
import type { Mesh } from '../../p2p/agent/mesh.ts';
import type { Content } from '../../p2p/mesh-protocol.ts';
import { chooseMethod, inspectHost } from '../attach/choose-method.ts';
import { type CachedTable, type CacheFigures, ChunkCache } from '../chunks/chunk-cache.ts';
import { ClientError } from '../errors.ts';
import { openDevice } from '../image/device.ts';
import type { MirrorServer } from '../mirror/mirror-server.ts';
import { makePrivateDirectory } from '../mount/private-directory.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';
import { Proxies } from '../sources/proxies.ts';
import { SourceCredentials } from '../sources/source-credentials.ts';
import { type AdminHandler, AdminServer } from './admin-server.ts';
import { BackgroundCompletion } from './background-completion.ts';
import { LazyMounts } from './lazy-mounts.ts';
import { mountsDirectory } from './mount-records.ts';
import type { NodeConfig } from './node-config.ts';
import { NodeMetrics } from './node-metrics.ts';
import type { NodeStatus, Readiness } from './node-status.ts';
import { probeProxy } from './proxy-probe.ts';
import { RunDirectoryLock } from './run-directory-lock.ts';

export interface NodeDaemonOptions {
  readonly logger: Logger;
  readonly version: string;
}

/** Longer than any part needs that works; all of them together within the patience of a service manager. */
const CLOSE_TIMEOUT_MS = 20_000;

/** While it starts. */
const NO_FIGURES: CacheFigures = {
  ...{ hits: 0, misses: 0, evicted: 0, healed: 0 },
  ...{ heldBytes: 0, maxBytes: null, openBlobs: 0 },
};

/** What runs, in the order in which it was started. */
interface Parts {
  readonly proxies: Proxies;
  readonly cache: ChunkCache;
  readonly mesh: Mesh | null;
  readonly mounts: LazyMounts;
  readonly metrics: NodeMetrics;
  readonly mirrorUrl: URL | null;
}

/** The node daemon: puts the parts together, starts them in order, and takes them down in the other. */
export class NodeDaemon implements AdminHandler {
  /** Resolves when an operator had everything unmounted: the process is to end. */
  readonly stopped: Promise<void>;
  readonly #config: NodeConfig;
  readonly #options: NodeDaemonOptions;
  readonly #stop = Promise.withResolvers<void>();
  readonly #startMs = performance.now();
  /** The last one first. */
  readonly #closers: (() => Promise<void>)[] = [];
  #lock: RunDirectoryLock | null = null;
  #parts: Parts | null = null;
  #isClosing = false;

  private constructor(config: NodeConfig, options: NodeDaemonOptions) {
    this.#config = config;
    this.#options = options;
    this.stopped = this.#stop.promise;
  }

  /**
   * Takes up the mounts of an earlier daemon first of all, since containers wait for them; then answers containerd and
   * this host's pulls. Asks no proxy: it starts without any.
   * @throws ClientError ERR_ATTACH_UNSUPPORTED, ERR_NODE_RUNNING, ERR_DIRECTORY_UNSAFE; OciError ERR_TLS_FILE; what
   *   the parts throw
   */
  static async start(config: NodeConfig, options: NodeDaemonOptions): Promise<NodeDaemon> {
    const choice = chooseMethod('erofs', await inspectHost());
    if (choice.kind === 'unsupported') {
      throw new ClientError('ERR_ATTACH_UNSUPPORTED', `${choice.reason} ("dadi doctor" tells more)`);
    }
    const daemon = new NodeDaemon(config, options);
    try {
      await daemon.#start();
      return daemon;
    } catch (error) {
      await daemon.close();
      throw error;
    }
  }

  async status(): Promise<NodeStatus> {
    const { snapshotter, cache } = this.#config;
    return {
      version: this.#options.version,
      pid,
      uptimeMs: Math.round(performance.now() - this.#startMs),
      readiness: this.readiness(),
      snapshotterSocket: snapshotter?.socket ?? null,
      mirrorUrl: this.#parts?.mirrorUrl?.href ?? null,
      proxies: this.#proxies(),
      cache: { directory: cache.directory, ...(this.#parts?.cache.figures ?? NO_FIGURES) },
      mesh: this.#parts?.mesh?.status() ?? null,
      mounts: this.#parts?.mounts.status() ?? [],
    };
  }

  readiness(): Readiness {
    const isRunning = this.#parts !== null && !this.#isClosing;
    const left = this.#parts?.mounts.left ?? 0;
    const answering = this.#proxies().filter(({ restingMs }) => restingMs === 0);
    return {
      isReady: isRunning,
      checks: [
        { name: 'running', isOk: isRunning, message: isRunning ? null : 'it is starting, or being stopped' },
        {
          name: 'proxies',
          // What is mounted and cached goes on without them, and what is not is downloaded as ever.
          isOk: true,
          message: answering.length > 0 ? null : 'degraded: no proxy answers',
        },
        {
          name: 'mounts',
          isOk: left === 0,
          message: left === 0 ? null : `mounts of an earlier daemon: ${left} cannot be taken up yet`,
        },
      ],
    };
  }

  async metrics(): Promise<{ readonly contentType: string; readonly text: string }> {
    if (this.#parts === null) throw new ClientError('ERR_NODE_UNREACHABLE', 'the node daemon is starting');
    return this.#parts.metrics.answer();
  }

  async cacheEntries(): Promise<readonly CachedTable[]> {
    return (await this.#parts?.cache.list()) ?? [];
  }

  async trimCache(toBytes: number): Promise<{ readonly freedBytes: number; readonly heldBytes: number }> {
    return (await this.#parts?.cache.trim(toBytes)) ?? { freedBytes: 0, heldBytes: 0 };
  }

  /** @throws ClientError ERR_MOUNT_BUSY (then all goes on as before), ERR_DETACH_FAILED */
  async stop(options: { readonly force: boolean }): Promise<void> {
    await this.#parts?.mounts.unmountAll(options);
    this.#options.logger.info('all was unmounted: stopping');
    this.#stop.resolve();
  }

  /**
   * Takes everything down but the mounts: reads of them wait for the next daemon. May be called again. False if
   * something did not end: then the process has to be ended, and the run directory is its own until it is.
   */
  async close(): Promise<boolean> {
    this.#isClosing = true;
    let isOver = true;
    for (let close = this.#closers.pop(); close !== undefined; close = this.#closers.pop()) {
      try {
        await within(CLOSE_TIMEOUT_MS, close());
      } catch (error) {
        isOver = false;
        this.#options.logger.error({ err: error }, 'cannot stop in order');
      }
    }
    if (isOver) await this.#lock?.release();
    return isOver;
  }

  async #start(): Promise<void> {
    const { runDirectory, stateDirectory, snapshotter, readTimeoutMs, conversionWaitMs } = this.#config;
    const { logger } = this.#options;
    const { tls: files } = this.#config;
    const tls = readRegistryTls(files, { skipVerify: files.insecureSkipVerify });
    this.#lock = await RunDirectoryLock.take(runDirectory);
    makePrivateDirectory(stateDirectory);
    const proxies = this.#openProxies(tls);
    const cache = await this.#openCache();
    const mesh = await this.#startMesh(proxies, cache, tls);
    const completion = this.#openCompletion();
    const open = async (chain: LazyChain, signal: AbortSignal) => {
      mesh?.join(chain, contentsOf(chain));
      const opened = await openDevice(proxies.image(chain), { cache, mesh, readTimeoutMs, signal });
      completion?.add(chain, opened);
      return opened;
    };
    const mounts: LazyMounts = await LazyMounts.start({
      directory: mountsDirectory(runDirectory),
      open,
      readTimeoutMs,
      logger,
      onEnd: (status) => metrics.ended(status),
    });
    this.#closers.push(() => mounts.close());
    const metrics: NodeMetrics = new NodeMetrics({
      mounts: () => mounts.status(),
      proxies: () => proxies.states,
      cache: () => cache.figures,
      mesh: mesh === null ? null : () => mesh.status(),
      mirror: () => mirror?.stats ?? null,
    });
    const mirror: MirrorServer | null = await this.#startMirror(proxies, cache, mesh, tls, metrics);
    const mirrorUrl = mirror?.url ?? null;
    if (snapshotter !== null) {
      const { SnapshotterServer } = await import('../snapshotter/snapshotter-server.ts');
      const server = await SnapshotterServer.start({
        socketPath: snapshotter.socket,
        stateDirectory: join(stateDirectory, 'snapshots'),
        lookup: proxies,
        mounts,
        conversionWaitMs,
        logger,
      });
      this.#closers.push(() => server.close());
    }
    this.#parts = { proxies, cache, mesh, mounts, metrics, mirrorUrl };
    const { socket, listen } = this.#config.admin;
    const admin = await AdminServer.start(this, { socket, listen });
    this.#closers.push(() => admin.close());
    logger.info(
      {
        snapshotter: snapshotter?.socket ?? null,
        mirror: mirrorUrl?.href ?? null,
        mounts: mounts.status().length,
      },
      'ready',
    );
    void this.#warnOfProxies(tls);
  }

  #openProxies(tls: RegistryTls): Proxies {
    const { logger } = this.#options;
    const credentials = new SourceCredentials({
      file: join(this.#config.stateDirectory, 'credentials.json'),
      dockerConfig: this.#config.credentials.dockerConfig,
      onProblem: (problem, error) => logger.warn({ err: error }, problem),
    });
    const proxies = new Proxies({ urls: this.#config.proxies, credentials, tls });
    this.#closers.push(async () => {
      await Promise.all([proxies.close(), credentials.saved()]);
    });
    return proxies;
  }

  async #openCache(): Promise<ChunkCache> {
    const { directory, maxBytes, minFreeBytes } = this.#config.cache;
    const cache = await ChunkCache.open(directory, {
      bound: { maxBytes, minFreeBytes },
      onWriteError: (error) =>
        this.#options.logger.warn(
          { err: error, directory },
          'the chunk cache takes no more; going on without it',
        ),
    });
    this.#closers.push(() => cache.close());
    return cache;
  }

  #openCompletion(): BackgroundCompletion | null {
    const { enabled, ...settings } = this.#config.completion;
    if (!enabled) return null;
    const completion = new BackgroundCompletion(settings, this.#options.logger);
    this.#closers.push(async () => completion.close());
    return completion;
  }

  async #startMesh(proxies: Proxies, cache: ChunkCache, tls: RegistryTls): Promise<Mesh | null> {
    const { mesh: config, proxies: urls, readTimeoutMs } = this.#config;
    if (config === null) return null;
    const { startMesh } = await import('./start-mesh.ts');
    const { credentials } = proxies;
    const { logger } = this.#options;
    const running = await startMesh(config, {
      ...{ proxies: urls, tls, credentials, cache, readTimeoutMs, logger },
    });
    this.#closers.push(() => running.close());
    return running.mesh;
  }

  async #startMirror(
    proxies: Proxies,
    cache: ChunkCache,
    mesh: Mesh | null,
    tls: RegistryTls,
    metrics: NodeMetrics,
  ): Promise<MirrorServer | null> {
    const { mirror, stateDirectory, proxies: urls, readTimeoutMs } = this.#config;
    if (mirror === null) return null;
    const { MirrorServer } = await import('../mirror/mirror-server.ts');
    const server = await MirrorServer.start({
      ...mirror,
      proxies: urls,
      tls,
      sources: proxies,
      cache,
      mesh,
      stateDirectory: join(stateDirectory, 'mirror'),
      readTimeoutMs,
      logger: this.#options.logger,
      onRequestEnd: (request) => metrics.mirrorRequestEnded(request),
    });
    this.#closers.push(() => server.close());
    return server;
  }

  /** A host may start before its proxy. */
  async #warnOfProxies(tls: RegistryTls): Promise<void> {
    await Promise.all(
      this.#config.proxies.map(async (url) => {
        const problem = await probeProxy(url, tls);
        if (problem === null) return;
        const remedy = 'the node goes on without it; start it, or correct its address';
        this.#options.logger.warn({ proxy: url.host, problem, remedy }, 'a proxy cannot be reached');
      }),
    );
  }

  #proxies(): NodeStatus['proxies'] {
    return this.#parts?.proxies.states ?? [];
  }
}

/** What there is a tree for. */
function contentsOf({ layers }: LazyChain): Content[] {
  return layers.map(({ digest, chunkTableDigest }) => ({ blob: digest, table: chunkTableDigest }));
}

/** What the work gives; rejects when it takes longer. The work itself goes on. */
async function within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error(`it takes longer than ${timeoutMs} ms`)), timeoutMs);
  try {
    return await unlessAborted(work, late.signal);
  } finally {
    clearTimeout(timer);
  }
}

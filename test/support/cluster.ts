/** A cluster on one machine: a registry, a proxy, perhaps roots, and hosts with node daemons, in network namespaces. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import pLimit from 'p-limit';
import { chainIds } from '../../src/oci/chain-id.ts';
import type { Digest } from '../../src/oci/digest.ts';
import type { Content } from '../../src/p2p/mesh-protocol.ts';
import { type ClusterHost, ClusterNetwork } from './cluster-network.ts';
import { converted, pullManifest } from './converted-image.ts';
import { SOURCES_MAIN } from './dadi-main.ts';
import { LazyHost } from './lazy-host.ts';
import type { LazyImage } from './lazy-pull.ts';
import { type MadeManifest, pushMade } from './made-image.ts';
import { run, type StartedProcess, start } from './processes.ts';

/** The registry as images are named after it. It is no host of any network. */
export const CLUSTER_REGISTRY = 'reg.example';
const REGISTRY_PORT = 5000;
const PROXY_PORT = 5100;
const ADMIN_PORT = 5101;
/** Many programs start at once, on few processors. */
const READY_MS = 180_000;
const AT_ONCE = 4;

/** A program in a namespace. */
export interface ClusterService {
  readonly host: ClusterHost;
  readonly url: string;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** Starts it again, with what it had on disk. */
  start(): Promise<void>;
}

interface ServiceCommand {
  readonly host: ClusterHost;
  readonly command: readonly string[];
  readonly port: number;
  readonly readyPath: string;
}

interface Running {
  readonly registry: ClusterService;
  readonly proxy: ClusterService;
}

export interface ClusterImage extends LazyImage {
  readonly repository: string;
  /** All layers together, as they are in the registry. */
  readonly layerBytes: number;
  /** Of the converted layers. */
  readonly contents: readonly (Content & { readonly sizeBytes: number })[];
}

export interface ClusterOptions {
  readonly zones?: number;
  /** Further keys of the proxy's configuration. */
  readonly proxy?: object;
  /** The program that proxy and hosts run: out of the sources by default. */
  readonly main?: string;
}

export class Cluster {
  readonly directory: string;
  readonly network: ClusterNetwork;
  readonly #main: string;
  readonly #services: Service[] = [];
  readonly #hosts = new Set<LazyHost>();
  #running: Running | null = null;

  private constructor(directory: string, main: string, network: ClusterNetwork) {
    this.directory = directory;
    this.#main = main;
    this.network = network;
  }

  static async start(options: ClusterOptions = {}): Promise<Cluster> {
    const { zones = 1, proxy = {}, main = SOURCES_MAIN } = options;
    const directory = mkdtempSync(join(tmpdir(), 'dadi-c-'));
    const cluster = new Cluster(directory, main, await ClusterNetwork.make({ zones }));
    try {
      await cluster.#start(proxy);
      return cluster;
    } catch (error) {
      await cluster.remove();
      throw error;
    }
  }

  get registry(): ClusterService {
    return this.#started().registry;
  }

  get proxy(): ClusterService {
    return this.#started().proxy;
  }

  /** Where the proxy's operators ask. */
  get adminUrl(): string {
    return `http://${this.proxy.host.address}:${ADMIN_PORT}`;
  }

  /** Copies an image of a layout on disk to the registry, and has the proxy convert it. */
  async addImage(layout: string, repository: string): Promise<ClusterImage> {
    const to = `docker://${this.registry.host.address}:${REGISTRY_PORT}/${repository}:1`;
    await run('skopeo', ['--insecure-policy', 'copy', '--quiet', '--dest-tls-verify=false', layout, to]);
    return this.#converted(repository);
  }

  /** The same for an image that was made by hand. */
  async addMade(made: MadeManifest, repository: string): Promise<ClusterImage> {
    await pushMade(new URL(this.registry.url), repository, '1', made);
    return this.#converted(repository);
  }

  async #converted(repository: string): Promise<ClusterImage> {
    const { url } = this.proxy;
    const { manifest, digest } = await pullManifest(url, CLUSTER_REGISTRY, repository);
    const layers = await converted(url, CLUSTER_REGISTRY, repository, digest);
    const config = await fetch(
      `${url}/v2/${repository}/blobs/${manifest.config.digest}?ns=${CLUSTER_REGISTRY}`,
    );
    const { rootfs } = (await config.json()) as { rootfs: { diff_ids: Digest[] } };
    const chains = chainIds(rootfs.diff_ids);
    return {
      repository,
      contents: layers.map(({ digest: blob, chunkTable: table, size: sizeBytes }) => ({
        ...{ blob, table, sizeBytes },
      })),
      reference: `${CLUSTER_REGISTRY}/${repository}:1`,
      manifestDigest: digest,
      layers: manifest.layers.map((layer, at) => ({ digest: layer.digest, chainId: chains[at]! })),
      layerBytes: manifest.layers.reduce((sum, { size }) => sum + size, 0),
    };
  }

  /** One more program. */
  async addService(command: ServiceCommand): Promise<ClusterService> {
    const service = new Service(command, join(this.directory, `${command.host.name}.log`));
    this.#services.push(service);
    await service.start();
    return service;
  }

  /** Node daemons on hosts of the network, a few starting at a time. @param configOf further keys of each one's configuration */
  async startHosts(
    hosts: readonly ClusterHost[],
    configOf: (host: ClusterHost) => object,
  ): Promise<LazyHost[]> {
    const started: LazyHost[] = [];
    const limit = pLimit(AT_ONCE);
    const starting = hosts.map((host, at) =>
      limit(async () => {
        const lazy = await LazyHost.start({
          ...{ host, directory: join(this.directory, host.name) },
          proxies: [this.proxy.url],
          config: configOf(host),
          main: this.#main,
        });
        this.#hosts.add(lazy);
        started[at] = lazy;
      }),
    );
    // All have started or failed when this ends: what is removed then stays so.
    for (const ending of await Promise.allSettled(starting)) {
      if (ending.status === 'rejected') throw ending.reason;
    }
    return started;
  }

  async removeHosts(hosts: readonly LazyHost[]): Promise<void> {
    const limit = pLimit(AT_ONCE);
    await limit.map(hosts, async (host) => {
      await host.remove();
      this.#hosts.delete(host);
    });
  }

  async remove(): Promise<void> {
    await this.removeHosts([...this.#hosts]);
    for (const service of this.#services.toReversed()) await service.kill();
    await this.network.remove();
    rmSync(this.directory, { recursive: true, force: true });
  }

  #started(): Running {
    if (this.#running === null) throw new Error('the cluster is starting');
    return this.#running;
  }

  async #start(proxySettings: object): Promise<void> {
    const [registryHost, proxyHost] = await this.network.addHosts(['registry', 'proxy'], 0);
    if (registryHost === undefined || proxyHost === undefined) throw new Error('no hosts');
    const registryConfig = this.#write('registry.json', {
      version: '0.1',
      storage: { filesystem: { rootdirectory: join(this.directory, 'registry') } },
      http: { addr: `${registryHost.address}:${REGISTRY_PORT}` },
    });
    const registry = await this.addService({
      host: registryHost,
      command: ['docker-registry', 'serve', registryConfig],
      port: REGISTRY_PORT,
      readyPath: '/v2/',
    });
    const proxyConfig = this.#write('proxy.json', {
      listen: `${proxyHost.address}:${PROXY_PORT}`,
      admin: { listen: `${proxyHost.address}:${ADMIN_PORT}` },
      dataDirectory: join(this.directory, 'proxy'),
      logLevel: 'warn',
      upstreams: [{ name: CLUSTER_REGISTRY, url: registry.url }],
      tagTtlMs: 3_600_000,
      ...proxySettings,
    });
    const proxy = await this.addService({
      host: proxyHost,
      command: [process.execPath, this.#main, 'proxy', '--config', proxyConfig],
      port: PROXY_PORT,
      readyPath: '/readyz',
    });
    this.#running = { registry, proxy };
  }

  #write(name: string, value: object): string {
    const path = join(this.directory, name);
    // JSON is YAML.
    writeFileSync(path, JSON.stringify(value));
    return path;
  }
}

class Service implements ClusterService {
  readonly host: ClusterHost;
  readonly url: string;
  readonly #command: ServiceCommand;
  readonly #logPath: string;
  #process: StartedProcess | null = null;

  constructor(command: ServiceCommand, logPath: string) {
    this.#command = command;
    this.#logPath = logPath;
    this.host = command.host;
    this.url = `http://${command.host.address}:${command.port}`;
  }

  async start(): Promise<void> {
    const [program = '', ...args] = [...this.host.enter, ...this.#command.command];
    const url = `${this.url}${this.#command.readyPath}`;
    this.#process = await start(program, args, {
      logPath: this.#logPath,
      readyTimeoutMs: READY_MS,
      readyWhen: async () => (await fetch(url)).ok,
    });
  }

  async kill(): Promise<void> {
    const running = this.#process;
    this.#process = null;
    if (running === null) return;
    process.kill(running.pid, 'SIGKILL');
    await running.ended;
  }
}

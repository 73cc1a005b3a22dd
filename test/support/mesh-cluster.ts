/** A cluster whose hosts are in a mesh, with a root on a host of its own. */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import process from 'node:process';
import type { MeshTree } from '../../src/p2p/root/mesh-overview.ts';
import { CLUSTER_REGISTRY, Cluster, type ClusterImage, type ClusterService } from './cluster.ts';
import type { ClusterHost } from './cluster-network.ts';
import { SOURCES_MAIN } from './dadi-main.ts';
import type { LazyHost } from './lazy-host.ts';
import type { LyingHostTask } from './lying-host.ts';
import { type StartedProcess, start } from './processes.ts';

const LYING_HOST = resolve(import.meta.dirname, 'lying-host.ts');
const PEER_PORT = 6011;
const ROOT_PORT = 5110;
const ROOT_ADMIN_PORT = 5111;
const READY_MS = 180_000;
/** Of node daemons: a machine that has much to do is no fault, and what is cut off waits until it is connected again. */
const PATIENCE = { conversionWaitMs: 120_000, readTimeoutMs: 300_000 };

export interface MeshClusterOptions {
  readonly zones: number;
  /** Of the root: how it makes trees. */
  readonly trees: {
    readonly maxFanOut: number;
    readonly heartbeatMs: number;
    readonly bytesPerSecondPerChild: number;
  };
  /** Of each host. */
  readonly uploadBytesPerSecond: number;
  /** The program that all run: out of the sources by default. */
  readonly main?: string;
}

export class MeshCluster {
  readonly cluster: Cluster;
  readonly root: ClusterService;
  readonly #secret: string;
  readonly #secretFile: string;
  readonly #uploadBytesPerSecond: number;

  private constructor(cluster: Cluster, root: ClusterService, secret: string, uploadBytesPerSecond: number) {
    this.cluster = cluster;
    this.root = root;
    this.#secret = secret;
    this.#secretFile = join(cluster.directory, 'secret');
    this.#uploadBytesPerSecond = uploadBytesPerSecond;
    writeFileSync(this.#secretFile, secret, { mode: 0o600 });
  }

  static async start(options: MeshClusterOptions): Promise<MeshCluster> {
    const { zones, trees, uploadBytesPerSecond, main = SOURCES_MAIN } = options;
    const cluster = await Cluster.start({ zones, main });
    try {
      const [host] = await cluster.network.addHosts(['root'], 0);
      if (host === undefined) throw new Error('no host');
      const flags = [
        ...['--proxy', cluster.proxy.url, '--data', join(cluster.directory, 'root'), '--log-level', 'warn'],
        ...[
          '--listen',
          `${host.address}:${ROOT_PORT}`,
          '--admin-listen',
          `${host.address}:${ROOT_ADMIN_PORT}`,
        ],
        ...['--max-fan-out', `${trees.maxFanOut}`, '--heartbeat-ms', `${trees.heartbeatMs}`],
        ...['--bytes-per-second-per-child', `${trees.bytesPerSecondPerChild}`],
      ];
      const command = [process.execPath, main, 'root', ...flags];
      const root = await cluster.addService({ host, command, port: ROOT_PORT, readyPath: '/healthz' });
      return new MeshCluster(cluster, root, randomBytes(32).toString('hex'), uploadBytesPerSecond);
    } catch (error) {
      await cluster.remove();
      throw error;
    }
  }

  startHosts(hosts: readonly ClusterHost[]): Promise<LazyHost[]> {
    return this.cluster.startHosts(hosts, ({ address, zone }) => ({
      ...PATIENCE,
      mesh: {
        secretFile: this.#secretFile,
        listen: `${address}:${PEER_PORT}`,
        zone: `zone ${zone}`,
        roots: [this.root.url],
        uploadBytesPerSecond: this.#uploadBytesPerSecond,
      },
    }));
  }

  /** A host that sends wrong bytes: in the trees of the image when this resolves. */
  async startLiar(host: ClusterHost, { repository, contents }: ClusterImage): Promise<StartedProcess> {
    const task: LyingHostTask = {
      ...{ secret: this.#secret, address: host.address, port: PEER_PORT },
      ...{ roots: [this.root.url], proxy: this.cluster.proxy.url, registry: CLUSTER_REGISTRY, repository },
      contents: contents.map(({ blob, table }) => ({ blob, table })),
    };
    const [program = '', ...enter] = host.enter;
    const logPath = join(this.cluster.directory, `${host.name}.log`);
    return start(program, [...enter, process.execPath, LYING_HOST, JSON.stringify(task)], {
      logPath,
      readyTimeoutMs: READY_MS,
      readyWhen: () => readFileSync(logPath, 'utf8').includes('has its places'),
    });
  }

  /** The tree of the image's largest layer, by the word of the root; null if nobody is in it. */
  async treeOf({ contents }: ClusterImage): Promise<MeshTree | null> {
    const { table } = contents.reduce((most, one) => (one.sizeBytes > most.sizeBytes ? one : most));
    const url = `http://${this.root.host.address}:${ROOT_ADMIN_PORT}/dadi/v1/mesh?table=${table}`;
    const { trees } = (await (await fetch(url)).json()) as { trees: MeshTree[] };
    return trees[0] ?? null;
  }

  /** As members of the mesh name it. */
  addressOf({ address }: ClusterHost): string {
    return `${address}:${PEER_PORT}`;
  }

  remove(): Promise<void> {
    return this.cluster.remove();
  }
}

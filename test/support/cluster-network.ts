/** A cluster's network out of network namespaces: hosts behind links of a given speed, in zones that can be cut off. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { run } from './processes.ts';

export interface LinkSpeed {
  /** As tc writes it: `100mbit`. In each direction. */
  readonly rate: string;
}

export interface ClusterHost {
  readonly name: string;
  readonly address: string;
  readonly zone: number;
  /** To be put before a command that is to run there. */
  readonly enter: readonly string[];
}

export interface HostTraffic {
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

/** Of tbf: what may pass at once after a pause, and how long the rest may wait. */
const BURST = ['burst', '64kb', 'latency', '200ms'];
const PREFIX_LENGTH = 16;
const FIRST_PREFIX = 200;
const PREFIXES = 50;
let made = 0;

/**
 * Each zone is a switch, and all switches hang on the first one. The machine itself is in the network too, at
 * {@link ClusterNetwork.address}, without any limit. Needs root and iproute2.
 */
export class ClusterNetwork {
  readonly #prefix = freePrefix();
  readonly address = `${this.#prefix}.255.1`;
  readonly #name = `dadi-${process.pid}-${made++}`;
  readonly #directory = mkdtempSync(join(tmpdir(), 'dadi-net-'));
  readonly #hosts: ClusterHost[] = [];
  readonly #zones: number;
  /** The machine's own link. */
  readonly #link = `dm${process.pid}-${made}`;

  private constructor(zones: number) {
    this.#zones = zones;
  }

  static async make({ zones }: { readonly zones: number }): Promise<ClusterNetwork> {
    const network = new ClusterNetwork(zones);
    try {
      await network.#makeSwitches();
      return network;
    } catch (error) {
      await network.remove();
      throw error;
    }
  }

  /** A namespace of its own for each name, all in the zone. Their links have no limit until {@link shape} is called. */
  async addHosts(names: readonly string[], zone: number): Promise<ClusterHost[]> {
    const first = this.#hosts.length;
    const added = names.map((name, at) => this.#hostAt(name, first + at, zone));
    const namespaces = added.map((host) => `netns add ${this.#namespace(host)}`);
    await this.#ip(namespaces);
    this.#hosts.push(...added);
    await this.#ip(
      added.flatMap((host) => [
        `link add ${portOf(this.#index(host))} type veth peer name eth0 netns ${this.#namespace(host)}`,
        `link set ${portOf(this.#index(host))} master zone${zone}`,
        `link set ${portOf(this.#index(host))} up`,
      ]),
      this.#switch,
    );
    for (const host of added) {
      await this.#ip(
        ['link set lo up', `address add ${host.address}/${PREFIX_LENGTH} dev eth0`, 'link set eth0 up'],
        this.#namespace(host),
      );
    }
    return added;
  }

  /** Limits the host's link in both directions, from now on. */
  async shape(host: ClusterHost, { rate }: LinkSpeed): Promise<void> {
    const limit = ['root', 'tbf', 'rate', rate, ...BURST];
    await run('tc', ['-n', this.#switch, 'qdisc', 'replace', 'dev', portOf(this.#index(host)), ...limit]);
    await run('tc', ['-n', this.#namespace(host), 'qdisc', 'replace', 'dev', 'eth0', ...limit]);
  }

  /** Pulls the cable between the zone and the others, or puts it back. Never the first one's. */
  async setZoneConnected(zone: number, isConnected: boolean): Promise<void> {
    await run('ip', ['-n', this.#switch, 'link', 'set', `up${zone}`, isConnected ? 'up' : 'down']);
  }

  /** Since the namespace was made, headers included. */
  traffic(host: ClusterHost): Promise<HostTraffic> {
    return this.#counters(this.#namespace(host));
  }

  async remove(): Promise<void> {
    const namespaces = [...this.#hosts.map((host) => this.#namespace(host)), this.#switch];
    try {
      // The kernel takes namespaces down later, by itself.
      await this.#ip([`link delete ${this.#link}`, ...namespaces.map((name) => `netns delete ${name}`)]);
    } finally {
      rmSync(this.#directory, { recursive: true, force: true });
    }
  }

  async #makeSwitches(): Promise<void> {
    const zones = Array.from({ length: this.#zones }, (_, zone) => zone);
    await this.#ip([
      `netns add ${this.#switch}`,
      `link add ${this.#link} type veth peer name control netns ${this.#switch}`,
      `address add ${this.address}/${PREFIX_LENGTH} dev ${this.#link}`,
      `link set ${this.#link} up`,
    ]);
    await this.#ip(
      [
        ...zones.flatMap((zone) => [`link add zone${zone} type bridge`, `link set zone${zone} up`]),
        ...zones
          .slice(1)
          .flatMap((zone) => [
            `link add up${zone} type veth peer name down${zone}`,
            `link set up${zone} master zone${zone}`,
            `link set down${zone} master zone0`,
            `link set up${zone} up`,
            `link set down${zone} up`,
          ]),
        'link set control master zone0',
        'link set control up',
      ],
      this.#switch,
    );
  }

  async #counters(namespace: string): Promise<HostTraffic> {
    const { stdout } = await run('ip', ['-n', namespace, '-j', '-s', 'link', 'show', 'dev', 'eth0']);
    const [link] = JSON.parse(stdout) as { stats64: { rx: { bytes: number }; tx: { bytes: number } } }[];
    if (link === undefined) throw new Error(`${namespace} has no link`);
    return { receivedBytes: link.stats64.rx.bytes, sentBytes: link.stats64.tx.bytes };
  }

  get #switch(): string {
    return `${this.#name}-switch`;
  }

  #namespace(host: ClusterHost): string {
    return `${this.#name}-${host.name}`;
  }

  #index(host: ClusterHost): number {
    return this.#hosts.indexOf(host);
  }

  #hostAt(name: string, index: number, zone: number): ClusterHost {
    const enter = ['nsenter', `--net=/run/netns/${this.#name}-${name}`, '--'];
    return { name, zone, enter, address: `${this.#prefix}.${Math.floor(index / 250)}.${(index % 250) + 1}` };
  }

  async #ip(lines: readonly string[], namespace: string | null = null): Promise<void> {
    const batch = join(this.#directory, 'batch');
    writeFileSync(batch, `${lines.join('\n')}\n`);
    await run('ip', [...(namespace === null ? [] : ['-n', namespace]), '-batch', batch]);
  }
}

/** The first two numbers of addresses that no other cluster of this machine has. */
function freePrefix(): string {
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  for (let at = 0; at < PREFIXES; at++) {
    const prefix = `10.${FIRST_PREFIX + ((process.pid + at) % PREFIXES)}`;
    if (!own.some(({ address }) => address.startsWith(`${prefix}.`))) return prefix;
  }
  throw new Error('all networks for clusters are taken');
}

function portOf(index: number): string {
  return `port${index}`;
}

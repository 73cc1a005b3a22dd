/**
 * What it costs the proxy when many hosts pull the same original layers at the same moment, each by its node daemon's
 * mirror: with the mesh and without it, of a proxy that has them (warm) and of one that has never heard of them (cold).
 * Each host is a network namespace behind a link of its own. Layers are random bytes: new ones in each round.
 * Usage: node bench/mesh-pulls.ts [--hosts N,N] [--layers 24,8] [--rate 50mbit] [--proxy-rate 100mbit]
 *   [--registry-rate 50mbit] [--modes mesh,proxy] [--states warm,cold] [--json]
 * `--layers` are MiB. Needs root, docker-registry, curl, iproute2 and what mounting needs; `npm run build` before.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable, printJson } from '../src/cli/output.ts';
import { askDaemon } from '../src/client/node/admin-client.ts';
import type { NodeStatus } from '../src/client/node/node-status.ts';
import { type Digest, digestOf } from '../src/oci/digest.ts';
import { CLUSTER_REGISTRY, Cluster } from '../test/support/cluster.ts';
import type { ClusterHost } from '../test/support/cluster-network.ts';
import { BUILT_MAIN } from '../test/support/dadi-main.ts';
import type { LazyHost } from '../test/support/lazy-host.ts';
import { run } from '../test/support/processes.ts';
import { bytesPerSecond } from './link-rate.ts';

const REPOSITORY = 'lib/pulled';
const MIRROR = '127.0.0.1:5105';
const WARM_UP_BYTES = 2 * 2 ** 20;
const MODES = ['mesh', 'proxy'] as const;
const STATES = ['warm', 'cold'] as const;

interface Round {
  readonly state: (typeof STATES)[number];
  readonly mode: (typeof MODES)[number];
  readonly hosts: number;
  readonly layerBytes: number;
  /** Until each host had its last byte. Sorted. */
  readonly seconds: readonly number[];
  /** All over the links, headers included. */
  readonly proxySentBytes: number;
  readonly registrySentBytes: number;
  readonly receivedBytesPerHost: number;
  /** Of all hosts together, chunks that others did not give in time; 0 without the mesh. */
  readonly missedChunks: number;
}

const { values: flags } = parseArgs({
  options: {
    hosts: { type: 'string', default: '2,4,8' },
    layers: { type: 'string', default: '24,8' },
    rate: { type: 'string', default: '50mbit' },
    'proxy-rate': { type: 'string', default: '100mbit' },
    'registry-rate': { type: 'string', default: '50mbit' },
    modes: { type: 'string', default: 'mesh,proxy' },
    states: { type: 'string', default: 'warm,cold' },
    json: { type: 'boolean', default: false },
  },
});
const counts = flags.hosts.split(',').map(Number);
const layerSizes = flags.layers.split(',').map((mebibytes) => Number(mebibytes) * 2 ** 20);
const modes = MODES.filter((mode) => flags.modes.split(',').includes(mode));
const states = STATES.filter((state) => flags.states.split(',').includes(state));

// Two children a host: each gets half of what it sends.
const mesh = { bytesPerSecondPerChild: bytesPerSecond(flags.rate) / 2 };
const cluster = await Cluster.start({ proxy: { mesh }, main: BUILT_MAIN });
const rounds: Round[] = [];
try {
  const secretFile = join(cluster.directory, 'secret');
  writeFileSync(secretFile, randomBytes(32).toString('hex'), { mode: 0o600 });
  const names = Array.from({ length: Math.max(...counts) }, (_, at) => `h${at}`);
  const hosts = await cluster.network.addHosts(names, 0);
  await cluster.network.shape(cluster.proxy.host, { rate: flags['proxy-rate'] });
  await cluster.network.shape(cluster.registry.host, { rate: flags['registry-rate'] });
  for (const host of hosts) await cluster.network.shape(host, { rate: flags.rate });
  for (const count of counts) {
    for (const mode of modes) rounds.push(...(await roundsOf(mode, hosts.slice(0, count), secretFile)));
  }
} finally {
  await cluster.remove();
}
print();

/** One round a state, all with the same daemons. */
async function roundsOf(
  mode: Round['mode'],
  hosts: readonly ClusterHost[],
  secretFile: string,
): Promise<Round[]> {
  const joined = ({ address }: ClusterHost) => ({
    ...{ secretFile, listen: `${address}:6011`, advertise: `${address}:6011` },
    uploadBytesPerSecond: bytesPerSecond(flags.rate),
  });
  const daemons = await cluster.startHosts(hosts, (host) => ({
    mirror: { listen: MIRROR },
    ...(mode === 'mesh' ? { mesh: joined(host) } : {}),
  }));
  try {
    const done: Round[] = [];
    // A program's first work takes it longer.
    const [small = ''] = await putLayers([WARM_UP_BYTES]);
    for (const { enter } of hosts) await pull(enter, `http://${MIRROR}`, small as Digest);
    for (const state of states) {
      const layers = await putLayers(layerSizes);
      if (state === 'warm') for (const layer of layers) await pull([], cluster.proxy.url, layer);
      const missedBefore = await missedChunks(daemons);
      const round = {
        ...(await oneRound(state, mode, hosts, layers)),
        missedChunks: (await missedChunks(daemons)) - missedBefore,
      };
      done.push(round);
      process.stderr.write(`${describe(round)}\n`);
    }
    return done;
  } finally {
    await cluster.removeHosts(daemons);
  }
}

async function oneRound(
  state: Round['state'],
  mode: Round['mode'],
  hosts: readonly ClusterHost[],
  layers: readonly Digest[],
): Promise<Omit<Round, 'missedChunks'>> {
  const { network, proxy, registry } = cluster;
  const traffic = () =>
    Promise.all([proxy.host, registry.host, ...hosts].map((host) => network.traffic(host)));
  const before = await traffic();
  const startMs = performance.now();
  const seconds = await Promise.all(
    hosts.map(async ({ enter }) => {
      await Promise.all(layers.map((layer) => pull(enter, `http://${MIRROR}`, layer)));
      return (performance.now() - startMs) / 1000;
    }),
  );
  const after = await traffic();
  const sent = (at: number) => after[at]!.sentBytes - before[at]!.sentBytes;
  const received = hosts.map((_, at) => after[at + 2]!.receivedBytes - before[at + 2]!.receivedBytes);
  return {
    ...{ state, mode, hosts: hosts.length },
    layerBytes: layerSizes.reduce((sum, bytes) => sum + bytes, 0),
    seconds: seconds.toSorted((a, b) => a - b),
    proxySentBytes: sent(0),
    registrySentBytes: sent(1),
    receivedBytesPerHost: received.reduce((sum, bytes) => sum + bytes, 0) / hosts.length,
  };
}

async function missedChunks(daemons: readonly LazyHost[]): Promise<number> {
  const missed = await Promise.all(
    daemons.map(async ({ node }) => {
      const socket = join(node.runDirectory, 'node.sock');
      const { mesh } = (await askDaemon(socket, 'GET', '/status')) as NodeStatus;
      console.error(
        JSON.stringify({
          counts: mesh?.counts,
          trees: mesh?.trees.map((t) => ({
            blob: t.blob.slice(7, 13),
            table: t.table.slice(7, 13),
            depth: t.place?.depth,
            meshBytes: t.meshBytes,
            proxyBytes: t.proxyBytes,
          })),
        }),
      );
      return mesh?.counts.missedChunks ?? 0;
    }),
  );
  return missed.reduce((sum, count) => sum + count, 0);
}

/** New ones, in the registry alone. */
async function putLayers(sizes: readonly number[]): Promise<Digest[]> {
  const digests: Digest[] = [];
  const directory = join(cluster.directory, 'layers');
  mkdirSync(directory, { recursive: true });
  for (const sizeBytes of sizes) {
    const bytes = randomBytes(sizeBytes);
    const digest = digestOf(bytes);
    const begun = await fetch(`${cluster.registry.url}/v2/${REPOSITORY}/blobs/uploads/`, { method: 'POST' });
    // Docker's registry API, "Monolithic Upload".
    const url = new URL(begun.headers.get('location') ?? '', cluster.registry.url);
    url.searchParams.set('digest', digest);
    const headers = { 'content-type': 'application/octet-stream' };
    const put = await fetch(url, { method: 'PUT', headers, body: bytes });
    if (put.status !== 201) throw new Error(`the registry answers ${put.status} to a layer`);
    digests.push(digest);
  }
  return digests;
}

/** Its bytes are checked: what is fast and wrong does not count. */
async function pull(enter: readonly string[], from: string, digest: Digest): Promise<void> {
  const url = `${from}/v2/${REPOSITORY}/blobs/${digest}?ns=${CLUSTER_REGISTRY}`;
  const sum = `curl --silent --show-error --fail-with-body '${url}' | sha256sum`;
  const [program = '', ...args] = [...enter, 'bash', '-o', 'pipefail', '-c', sum];
  const { stdout } = await run(program, args);
  if (!digest.endsWith(stdout.slice(0, 64))) throw new Error(`${url} is another blob`);
}

function describe({ hosts, mode, state, seconds, proxySentBytes, layerBytes }: Round): string {
  const copies = (proxySentBytes / layerBytes).toFixed(2);
  return `${hosts} hosts, ${state}, ${mode}: last ${seconds.at(-1)!.toFixed(2)} s, the proxy sent ${copies} copies`;
}

function print(): void {
  const { layers, rate, 'proxy-rate': proxyRate, 'registry-rate': registryRate } = flags;
  if (flags.json) {
    printJson({ layers, rate, proxyRate, registryRate, rounds });
    return;
  }
  const links = `links: hosts ${rate}, the proxy ${proxyRate}, the registry ${registryRate}`;
  console.log(`layers of ${layers} MiB; ${links}\n`);
  const rows = rounds.map((round) => [
    ...[String(round.hosts), round.state, round.mode],
    ...[round.seconds[0]!, round.seconds.at(-1)!].map((seconds) => seconds.toFixed(2)),
    ...[round.proxySentBytes, round.registrySentBytes, round.receivedBytesPerHost].map((bytes) =>
      (bytes / round.layerBytes).toFixed(2),
    ),
    String(round.missedChunks),
  ]);
  const header = [
    'hosts',
    'proxy is',
    'mode',
    'first s',
    'last s',
    'proxy sent',
    'registry sent',
    'a host got',
  ];
  console.log(`${formatTable(header, rows)}\n(sent and got: in copies of all layers)`);
}

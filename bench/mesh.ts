/**
 * How long many hosts take that start the same program out of the same image at the same moment, cold, and what that
 * costs the proxy: with the mesh, without it, and what downloading the whole image would take. Each host is a node
 * daemon in a network namespace of its own, behind a link of its own; the container is prepared as containerd does it
 * (snapshots API, mount, program). Hosts are in service: each one has started a container of a small other image before.
 * All on one machine: with many hosts its processors become the limit.
 * Usage: npm run build && node bench/mesh.ts [--hosts N,N] [--rate 1gbit] [--proxy-rate 10mbit] [--modes mesh,proxy,pull]
 *   [--program version|numpy] [--json]
 * Needs root, docker-registry, skopeo, curl, iproute2 and what mounting needs.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import pLimit from 'p-limit';
import { demoImage } from '../demo/image.ts';
import { PROGRAM } from '../demo/recipe.ts';
import { formatTable, printJson } from '../src/cli/output.ts';
import { busyboxImage, randomFile } from '../test/support/busybox-image.ts';
import { CLUSTER_REGISTRY, Cluster } from '../test/support/cluster.ts';
import type { ClusterHost } from '../test/support/cluster-network.ts';
import { BUILT_MAIN } from '../test/support/dadi-main.ts';
import type { LazyHost } from '../test/support/lazy-host.ts';
import type { LazyImage } from '../test/support/lazy-pull.ts';
import { run } from '../test/support/processes.ts';
import { bytesPerSecond } from './link-rate.ts';
import { machineMs } from './processor-time.ts';
import { TraceRecorder } from './start-trace.ts';
import type { Trace } from './swarm/swarm.ts';

const REPOSITORY = 'lib/demo';
const PATIENCE_MS = 900_000;
const WARM_UP_BYTES = 4_000_000;
const WARM_UPS_AT_ONCE = 2;
const PROGRAMS: Readonly<Record<string, readonly string[]>> = {
  version: ['/usr/bin/python3', '--version'],
  numpy: PROGRAM,
};
const MODES = ['mesh', 'proxy', 'pull'] as const;
type Mode = (typeof MODES)[number];

interface Round {
  readonly mode: Mode;
  readonly hosts: number;
  /** Until the first output; of a pull, until the last byte. Sorted. */
  readonly seconds: readonly number[];
  /** All over the links, headers included. */
  readonly proxySentBytes: number;
  readonly registrySentBytes: number;
  readonly receivedBytesPerHost: number;
  /** Of the deepest tree; 0 without the mesh. */
  readonly depth: number;
  /** Of all programs of the machine together. */
  readonly cpuMs: number;
}

interface Images {
  readonly image: LazyImage;
  /** A small one, that hosts have started before. */
  readonly other: LazyImage;
}

const { values: flags } = parseArgs({
  options: {
    hosts: { type: 'string', default: '1,8,16,32' },
    rate: { type: 'string', default: '20mbit' },
    'proxy-rate': { type: 'string', default: '100mbit' },
    modes: { type: 'string', default: 'mesh,proxy' },
    program: { type: 'string', default: 'version' },
    json: { type: 'boolean', default: false },
  },
});

const report = (line: string) => process.stderr.write(`${line}\n`);
const { layout } = await demoImage({ signal: new AbortController().signal, report });
const counts = flags.hosts.split(',').map(Number);
const modes = MODES.filter((mode) => flags.modes.split(',').includes(mode));
const program = PROGRAMS[flags.program];
if (program === undefined) throw new Error(`--program is one of ${Object.keys(PROGRAMS).join(', ')}`);

// Two children a host: each gets half of what it sends.
const mesh = { bytesPerSecondPerChild: bytesPerSecond(flags.rate) / 2 };
const cluster = await Cluster.start({ proxy: { mesh }, main: BUILT_MAIN });
const rounds: Round[] = [];
let trace: Trace = { blobChunks: [], steps: [] };
try {
  const secretFile = join(cluster.directory, 'secret');
  writeFileSync(secretFile, randomBytes(32).toString('hex'), { mode: 0o600 });
  const names = Array.from({ length: Math.max(...counts) }, (_, at) => `h${at}`);
  const hosts = await cluster.network.addHosts(names, 0);
  report('converting');
  const image = await cluster.addImage(`oci:${layout}:latest`, REPOSITORY);
  const other = await cluster.addMade(busyboxImage(1, { randomBytes: WARM_UP_BYTES }), 'lib/other');
  await cluster.network.shape(cluster.proxy.host, { rate: flags['proxy-rate'] });
  for (const host of hosts) await cluster.network.shape(host, { rate: flags.rate });
  trace = await record(hosts[0]!, image);
  for (const count of counts) {
    for (const mode of modes) {
      const round = await oneRound(mode, hosts.slice(0, count), { image, other }, secretFile);
      rounds.push(round);
      report(describe(round));
    }
  }
} finally {
  await cluster.remove();
}
print();

/** What the program reads, on a host alone. */
async function record(host: ClusterHost, image: LazyImage): Promise<Trace> {
  const recorder = await TraceRecorder.start(cluster.network.address, cluster.proxy.url);
  const [daemon] = await cluster.startHosts([host], () => ({ proxies: [recorder.url] }));
  try {
    await daemon!.run(image, program!, AbortSignal.timeout(PATIENCE_MS));
  } finally {
    await cluster.removeHosts([daemon!]);
  }
  return recorder.stop();
}

async function oneRound(
  mode: Mode,
  hosts: readonly ClusterHost[],
  { image, other }: Images,
  secretFile: string,
): Promise<Round> {
  const { network, proxy, registry } = cluster;
  const traffic = (of: readonly ClusterHost[]) => Promise.all(of.map((host) => network.traffic(host)));
  const joined = (host: ClusterHost) => ({
    ...{ secretFile, listen: `${host.address}:6011`, advertise: `${host.address}:6011` },
    uploadBytesPerSecond: bytesPerSecond(flags.rate),
  });
  const config = (host: ClusterHost) => (mode === 'mesh' ? { mesh: joined(host) } : {});
  const daemons = mode === 'pull' ? [] : await cluster.startHosts(hosts, config);
  try {
    await warmUp(daemons, other);
    const served = [proxy.host, registry.host];
    const before = await traffic([...served, ...hosts]);
    const cpuBeforeMs = machineMs();
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const seconds =
      mode === 'pull'
        ? await Promise.all(hosts.map((host) => pull(host, image)))
        : await Promise.all(
            daemons.map(async (host) => (await host.run(image, program!, signal)).firstOutputMs / 1000),
          );
    const usedMs = machineMs() - cpuBeforeMs;
    const after = await traffic([...served, ...hosts]);
    const sent = (at: number) => after[at]!.sentBytes - before[at]!.sentBytes;
    const received = after
      .slice(2)
      .map(({ receivedBytes }, at) => receivedBytes - before[at + 2]!.receivedBytes);
    return {
      mode,
      hosts: hosts.length,
      seconds: seconds.toSorted((a, b) => a - b),
      proxySentBytes: sent(0),
      registrySentBytes: sent(1),
      receivedBytesPerHost: received.reduce((sum, bytes) => sum + bytes, 0) / hosts.length,
      depth: mode === 'mesh' ? await deepest() : 0,
      cpuMs: usedMs,
    };
  } finally {
    await cluster.removeHosts(daemons);
  }
}

async function warmUp(hosts: readonly LazyHost[], other: LazyImage): Promise<void> {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  await pLimit(WARM_UPS_AT_ONCE).map(hosts, (host) =>
    host.run(other, ['/bin/md5sum', randomFile(0)], signal),
  );
}

/** Downloads all layers, unpacking nothing: less than what any client does. */
async function pull(host: ClusterHost, { layers }: LazyImage): Promise<number> {
  const startMs = performance.now();
  await Promise.all(
    layers.map(async ({ digest }) => {
      const url = `${cluster.proxy.url}/v2/${REPOSITORY}/blobs/${digest}?ns=${CLUSTER_REGISTRY}`;
      const [enter = '', ...args] = host.enter;
      await run(enter, [...args, 'curl', '--silent', '--fail', '--output', '/dev/null', url]);
    }),
  );
  return (performance.now() - startMs) / 1000;
}

async function deepest(): Promise<number> {
  const answer = await fetch(`${cluster.adminUrl}/dadi/v1/mesh`);
  const { trees } = (await answer.json()) as { trees: { depth: number }[] };
  return Math.max(0, ...trees.map(({ depth }) => depth));
}

function describe({ mode, hosts, seconds, proxySentBytes }: Round): string {
  const last = seconds.at(-1)!.toFixed(2);
  return `${hosts} hosts, ${mode}: first ${seconds[0]!.toFixed(2)} s, last ${last} s, proxy sent ${megabytes(proxySentBytes)}`;
}

function print(): void {
  const machine = `${cpus().length} x ${cpus()[0]?.model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}`;
  const settings = { rate: flags.rate, proxyRate: flags['proxy-rate'], program: flags.program };
  if (flags.json) {
    printJson({ machine, cores: cpus().length, ...settings, trace, rounds });
    return;
  }
  console.log(
    `${machine}\nhosts' links ${flags.rate}, the proxy's ${flags['proxy-rate']}; ${program!.join(' ')}\n`,
  );
  const rows = rounds.map((round) => [
    ...[String(round.hosts), round.mode],
    ...[0, 0.5, 0.99, 1].map((part) => quantile(round.seconds, part).toFixed(2)),
    ...[round.proxySentBytes, round.registrySentBytes, round.receivedBytesPerHost].map(megabytes),
    String(round.depth),
  ]);
  const header = [
    'hosts',
    'mode',
    'first s',
    'median',
    'p99',
    'last',
    'proxy sent',
    'registry sent',
    'a host received',
    'depth',
  ];
  console.log(formatTable(header, rows));
}

function quantile(sorted: readonly number[], part: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]!;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

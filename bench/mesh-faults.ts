/**
 * What faults cost many hosts that start the same program out of the same image at the same moment: each fault comes while
 * they read. The program reads files of numpy, block by block, and tells what their digest is and how long it waited for
 * a block at most. Hosts are as in bench/mesh.ts, in two zones, with a root on a host of its own.
 * Usage: npm run build && node bench/mesh-faults.ts [--fault none,kill-inner,kill-root,kill-proxy,partition,liar,slow-link] [--hosts N]
 *   [--rate-mbit N] [--proxy-rate-mbit N] [--read-mb N] [--json]
 * Needs root, docker-registry, skopeo, umoci, iproute2 and what mounting needs.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { demoImage } from '../demo/image.ts';
import { formatTable, printJson } from '../src/cli/output.ts';
import type { MeshHost } from '../src/p2p/root/mesh-overview.ts';
import type { ClusterImage } from '../test/support/cluster.ts';
import type { ClusterHost } from '../test/support/cluster-network.ts';
import { BUILT_MAIN } from '../test/support/dadi-main.ts';
import { unpackWithUmoci } from '../test/support/images.ts';
import type { LazyHost } from '../test/support/lazy-host.ts';
import { MeshCluster } from '../test/support/mesh-cluster.ts';
import { run } from '../test/support/processes.ts';

const PATIENCE_MS = 900_000;
const POLL_MS = 100;
/** Children of a host. */
const FAN_OUT = 2;
const ZONES = 2;
/** Of what a host is to receive: then the fault comes. */
const MIDDLE = 0.35;
const KILLED_PART = 1 / 3;
const SLOWER = 100;

const FAULTS = ['none', 'kill-inner', 'kill-root', 'kill-proxy', 'partition', 'liar', 'slow-link'] as const;
type Fault = (typeof FAULTS)[number];

/** Arguments: how many bytes to read at most. Prints {@link Reading}. */
const READER = `
import hashlib, json, os, sys, time
left, digest, longest = int(sys.argv[1]), hashlib.sha256(), 0
last = time.monotonic()
for place, folders, names in os.walk("/usr/lib/python3/dist-packages/numpy"):
    folders.sort()
    for name in sorted(names):
        with open(os.path.join(place, name), "rb", buffering=0) as file:
            while left > 0 and (data := file.read(min(left, 65536))):
                now = time.monotonic()
                longest, last = max(longest, now - last), now
                left -= len(data)
                digest.update(data)
print(json.dumps({"digest": digest.hexdigest(), "longestMs": longest * 1000}))
`;

interface Reading {
  readonly digest: string;
  /** Between two blocks, at most. */
  readonly longestMs: number;
}

interface HostResult extends Reading {
  readonly endedMs: number;
}

interface Round {
  readonly fault: Fault;
  readonly hosts: number;
  readonly finished: number;
  readonly wrong: number;
  /** Those that the fault did not hit itself: when the last one ended. */
  readonly lastSeconds: number;
  /** The longest that any of them waited for a block. */
  readonly longestMs: number;
  /** The same, of those below a host that was hit; null if there are none. */
  readonly longestBelowMs: number | null;
  readonly proxySentBytes: number;
}

const { values: flags } = parseArgs({
  options: {
    fault: { type: 'string', default: FAULTS.join(',') },
    hosts: { type: 'string', default: '32' },
    'rate-mbit': { type: 'string', default: '20' },
    'proxy-rate-mbit': { type: 'string', default: '100' },
    'read-mb': { type: 'string', default: '12' },
    json: { type: 'boolean', default: false },
  },
});
const rateMbit = Number(flags['rate-mbit']);
const readBytes = Number(flags['read-mb']) * 1e6;
const program = ['/usr/bin/python3', '-I', '-B', '-c', READER, String(readBytes)];
const faults = FAULTS.filter((fault) => flags.fault.split(',').includes(fault));

/** Fires when somebody stops it: what is under way ends, and all is taken down. */
const stopping = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stopping.abort());
const report = (line: string) => process.stderr.write(`${line}\n`);
const { layout } = await demoImage({ signal: stopping.signal, report });
report('reading the image without us');
const expected = await readUnpacked();
const uploadBytesPerSecond = rateMbit * 125_000;
const mesh = await MeshCluster.start({
  main: BUILT_MAIN,
  zones: ZONES,
  trees: { maxFanOut: FAN_OUT, heartbeatMs: 2_000, bytesPerSecondPerChild: uploadBytesPerSecond / FAN_OUT },
  uploadBytesPerSecond,
});
const { cluster } = mesh;
const { network } = cluster;
const rate = { rate: `${rateMbit}mbit` };
const rounds: Round[] = [];
try {
  const places = await makePlaces();
  const [liar] = await network.addHosts(['liar'], 0);
  report('converting');
  const image = await cluster.addImage(`oci:${layout}:latest`, 'lib/demo');
  await network.shape(cluster.proxy.host, { rate: `${flags['proxy-rate-mbit']}mbit` });
  for (const place of [...places, liar!]) await network.shape(place, rate);
  for (const fault of faults) {
    if (stopping.signal.aborted) break;
    const round = await oneRound(fault, places, image, liar!);
    rounds.push(round);
    report(describe(round));
  }
} finally {
  await mesh.remove();
}
print();

/** What the program says of the image as umoci unpacks it. */
async function readUnpacked(): Promise<string> {
  const scratch = mkdtempSync(join(tmpdir(), 'dadi-mf-'));
  try {
    const root = await unpackWithUmoci({ layout, tag: 'latest' }, join(scratch, 'root'));
    const { stdout } = await run('chroot', [root, ...program]);
    return (JSON.parse(stdout) as Reading).digest;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

async function makePlaces(): Promise<ClusterHost[]> {
  const count = Number(flags.hosts);
  const half = Math.ceil(count / ZONES);
  const names = Array.from({ length: count }, (_, at) => `h${at}`);
  const first = await network.addHosts(names.slice(0, half), 0);
  return [...first, ...(await network.addHosts(names.slice(half), 1))];
}

async function oneRound(
  fault: Fault,
  places: readonly ClusterHost[],
  image: ClusterImage,
  liar: ClusterHost,
): Promise<Round> {
  const signal = AbortSignal.any([stopping.signal, AbortSignal.timeout(PATIENCE_MS)]);
  const lying = fault === 'liar' ? await mesh.startLiar(liar, image) : null;
  const hosts = await mesh.startHosts(places);
  try {
    const scene = { hosts, image, signal, results: new Map<LazyHost, HostResult>() };
    const before = await network.traffic(cluster.proxy.host);
    // So they stand in the trees, and it is known who is below whom.
    await Promise.all(hosts.map((host) => host.run(image, ['/usr/bin/true'], signal)));
    report(`${fault}: all have joined`);
    const { hit, below } = await act(fault, scene);
    const { sentBytes } = await network.traffic(cluster.proxy.host);
    const spared = hosts.filter((host) => !hit.includes(host));
    const results = spared.flatMap((host) => scene.results.get(host) ?? []);
    const longest = (of: readonly HostResult[]) => Math.max(...of.map(({ longestMs }) => longestMs));
    const resultsBelow = below.flatMap((host) => scene.results.get(host) ?? []);
    return {
      ...{ fault, hosts: hosts.length, finished: scene.results.size },
      wrong: [...scene.results.values()].filter(({ digest }) => digest !== expected).length,
      lastSeconds: Math.max(...results.map(({ endedMs }) => endedMs)) / 1000,
      longestMs: longest(results),
      longestBelowMs: resultsBelow.length === 0 ? null : longest(resultsBelow),
      proxySentBytes: sentBytes - before.sentBytes,
    };
  } finally {
    await lying?.stop();
    await cluster.removeHosts(hosts);
  }
}

interface Scene {
  readonly hosts: readonly LazyHost[];
  readonly image: ClusterImage;
  readonly signal: AbortSignal;
  readonly results: Map<LazyHost, HostResult>;
}

interface Outcome {
  /** Hosts that the fault hit itself. */
  readonly hit: readonly LazyHost[];
  /** Those that got from one of them. */
  readonly below: readonly LazyHost[];
}

/** Has all hosts read, and the fault come meanwhile; resolves when all that can have finished. */
async function act(fault: Fault, scene: Scene): Promise<Outcome> {
  const { hosts } = scene;
  const { network } = cluster;
  switch (fault) {
    case 'none':
    case 'liar':
      await readAll(scene, hosts);
      return { hit: [], below: [] };
    case 'kill-inner': {
      const seats = await seatsOf(scene);
      const inner = hosts.filter((host) => seats.get(host)?.parent != null && seats.get(host)!.children > 0);
      const hit = inner.slice(0, Math.ceil(KILLED_PART * inner.length));
      const ids = hit.map((host) => seats.get(host)!.id);
      const below = hosts.filter(
        (host) => !hit.includes(host) && ids.includes(seats.get(host)?.parent ?? ''),
      );
      const reading = readAll(scene, hosts);
      await middle(scene, hit[0]!);
      await Promise.all(hit.map(({ node }) => node.kill()));
      await haveRead(scene, exceptFor(hosts, hit), reading);
      await Promise.all(hit.map(({ node }) => node.start()));
      await reading;
      return { hit, below };
    }
    case 'kill-root': {
      const reading = readAll(scene, hosts);
      await middle(scene, hosts[0]!);
      await mesh.root.kill();
      await reading;
      await mesh.root.start();
      return { hit: [], below: [] };
    }
    case 'kill-proxy': {
      const seats = await seatsOf(scene);
      const top = hosts.filter((host) => seats.get(host)?.parent === null);
      await readAll(scene, top);
      await cluster.proxy.kill();
      try {
        await readAll(scene, exceptFor(hosts, top));
      } finally {
        await cluster.proxy.start();
        await network.shape(cluster.proxy.host, { rate: `${flags['proxy-rate-mbit']}mbit` });
      }
      return { hit: top, below: [] };
    }
    case 'partition': {
      const seats = await seatsOf(scene);
      const far = hosts.filter(({ host }) => host.zone !== 0);
      const ids = far.map((host) => seats.get(host)?.id);
      const below = exceptFor(hosts, far).filter((host) => ids.includes(seats.get(host)?.parent ?? ''));
      const reading = readAll(scene, hosts);
      await middle(scene, far[0]!);
      await network.setZoneConnected(1, false);
      try {
        await haveRead(scene, exceptFor(hosts, far), reading);
      } finally {
        await network.setZoneConnected(1, true);
      }
      await reading;
      return { hit: far, below };
    }
    case 'slow-link': {
      const seats = await seatsOf(scene);
      const hit = hosts.filter((host) => seats.get(host)?.parent === null).slice(0, 1);
      const below = hosts.filter((host) => seats.get(host)?.parent === seats.get(hit[0]!)!.id);
      const reading = readAll(scene, hosts);
      await network.shape(hit[0]!.host, { rate: `${(rateMbit * 1000) / SLOWER}kbit` });
      try {
        await haveRead(scene, exceptFor(hosts, hit), reading);
      } finally {
        await network.shape(hit[0]!.host, rate);
      }
      await reading;
      return { hit, below };
    }
  }
}

function exceptFor(hosts: readonly LazyHost[], hit: readonly LazyHost[]): readonly LazyHost[] {
  return hosts.filter((host) => !hit.includes(host));
}

async function readAll({ image, signal, results }: Scene, hosts: readonly LazyHost[]): Promise<void> {
  await Promise.all(
    hosts.map(async (host) => {
      try {
        const { output, endedMs } = await host.run(image, program, signal);
        results.set(host, { ...(JSON.parse(output) as Reading), endedMs });
      } catch (error) {
        report(`${host.host.name} did not finish: ${error instanceof Error ? error.message : error}`);
      }
    }),
  );
}

/** Until these have finished, or all others too. */
async function haveRead(
  { results }: Scene,
  hosts: readonly LazyHost[],
  reading: Promise<void>,
): Promise<void> {
  let isOver = false;
  void reading.then(() => {
    isOver = true;
  });
  while (!isOver && !hosts.every((host) => results.has(host))) await sleep(POLL_MS);
}

/** Until the host has received a good part of what it is to receive. */
async function middle({ results, signal }: Scene, { host }: LazyHost): Promise<void> {
  const { receivedBytes } = await network.traffic(host);
  // What is read is compressed to about the half.
  const enoughBytes = receivedBytes + (MIDDLE * readBytes) / 2;
  while ((await network.traffic(host)).receivedBytes < enoughBytes && results.size === 0) {
    signal.throwIfAborted();
    await sleep(POLL_MS);
  }
}

/** By the word of the root. */
async function seatsOf({ hosts, image }: Scene): Promise<ReadonlyMap<LazyHost, MeshHost>> {
  const tree = await mesh.treeOf(image);
  return new Map(
    hosts.flatMap((host) => {
      const seat = tree?.hosts.find(({ address }) => address === mesh.addressOf(host.host));
      return seat === undefined ? [] : [[host, seat] as const];
    }),
  );
}

function describe({ fault, hosts, finished, wrong, lastSeconds, longestMs }: Round): string {
  const last = `last after ${lastSeconds.toFixed(2)} s, waited ${longestMs.toFixed(0)} ms at most`;
  return `${fault}: ${finished} of ${hosts} finished, ${wrong} read wrong bytes, ${last}`;
}

function print(): void {
  const machine = `${cpus().length} x ${cpus()[0]?.model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}`;
  const settings = { rateMbit, proxyRateMbit: Number(flags['proxy-rate-mbit']), readBytes };
  if (flags.json) {
    printJson({ machine, ...settings, rounds });
    return;
  }
  console.log(
    `${machine}\nhosts' links ${rateMbit} Mbit/s, the proxy's ${flags['proxy-rate-mbit']}; ${readBytes / 1e6} MB read\n`,
  );
  const header = [
    ...['fault', 'hosts', 'finished', 'wrong', 'last s', 'longest wait ms', 'below the fault ms'],
    'proxy sent MB',
  ];
  const rows = rounds.map((round) => [
    ...[round.fault, ...[round.hosts, round.finished, round.wrong].map(String)],
    ...[round.lastSeconds.toFixed(2), round.longestMs.toFixed(0)],
    ...[round.longestBelowMs?.toFixed(0) ?? '', (round.proxySentBytes / 1e6).toFixed(1)],
  ]);
  console.log(formatTable(header, rows));
}

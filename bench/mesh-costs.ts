/**
 * What single things cost when hosts start containers of one image: the first container of a host, each further one, a
 * chunk from the proxy and from another host, a join. Processor time is taken program by program, so that it holds on a
 * machine that has other things to do, too; what the kernel does in its own threads is not in it. The simulator
 * (bench/swarm.ts) lives on these figures.
 * Two node daemons in network namespaces, in service: each has started a small other image before. The first one starts
 * the program cold, through the proxy; then again and again, as further containers; then as many at once. The second one
 * starts it cold, and has all from the first one.
 * Usage: npm run build && node bench/mesh-costs.ts [--rounds N] [--containers N] [--rate 1gbit] [--json]
 * Needs root, docker-registry, skopeo, iproute2 and what mounting needs.
 */
import { randomBytes } from 'node:crypto';
import { type ChannelListener, subscribe, unsubscribe } from 'node:diagnostics_channel';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { request } from 'undici';
import { demoImage } from '../demo/image.ts';
import { formatTable, printJson } from '../src/cli/output.ts';
import { type ChunkTable, decodeChunkTable, verifyChunk } from '../src/format/chunk-table.ts';
import { HttpPeerTransport } from '../src/p2p/agent/http-peer-transport.ts';
import { HttpRootTransport } from '../src/p2p/agent/http-root-transport.ts';
import { peerTls } from '../src/p2p/agent/peer-security.ts';
import { memberIdOf, newMemberSecret } from '../src/p2p/member-secret.ts';
import type { Content, JoinAnswer, Place } from '../src/p2p/mesh-protocol.ts';
import { busyboxImage, randomFile } from '../test/support/busybox-image.ts';
import { CLUSTER_REGISTRY, Cluster, type ClusterImage } from '../test/support/cluster.ts';
import type { ClusterHost } from '../test/support/cluster-network.ts';
import { BUILT_MAIN } from '../test/support/dadi-main.ts';
import type { LazyHost } from '../test/support/lazy-host.ts';
import { pullLazily } from '../test/support/lazy-pull.ts';
import { run } from '../test/support/processes.ts';
import { type RecordedRequest, RequestRecorder } from '../test/support/request-recorder.ts';
import { withMounted } from '../test/support/snapshot-mounts.ts';
import { SnapshotsClient } from '../test/support/snapshots-client.ts';
import { parallelWork } from './parallel-work.ts';
import { machineMs, ownMs, reapedMs, usedMs } from './processor-time.ts';
import { TraceRecorder } from './start-trace.ts';
import type { PullCosts } from './swarm/costs.ts';
import type { MeasuredCosts, MeasuredStart, MeasuredSteady } from './swarm/measured.ts';
import { chunksOf } from './swarm/trace.ts';

const REPOSITORY = 'lib/demo';
const PROGRAM = ['/usr/bin/python3', '--version'] as const;
const PATIENCE_MS = 120_000;
const WHERE = { registry: CLUSTER_REGISTRY, repository: REPOSITORY };
const JOINS = 300;
/** Of the small other image. */
const OTHER_BYTES = 4_000_000;
/** Until a program that is asked the same again and again has seen it often enough. */
const WARM_UP = 30;
const REPEATS = 60;
/** Of an answer. */
const MAX_BYTES = 64 * 1024 * 1024;

interface Images {
  readonly image: ClusterImage;
  /** A small one, that hosts have started before. */
  readonly other: ClusterImage;
}

interface Round {
  readonly first: MeasuredStart;
  readonly next: MeasuredStart;
  readonly together: MeasuredStart;
  readonly fromPeer: MeasuredStart;
}

/** What is printed for people, too. */
interface Measured extends MeasuredCosts {
  /** So many containers at once on a host that has the image open. */
  readonly together: number;
  readonly togetherMs: number;
  readonly cores: number;
}

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    containers: { type: 'string', default: '10' },
    rate: { type: 'string', default: '1gbit' },
    json: { type: 'boolean', default: false },
  },
});
const containers = Number(flags.containers);
const report = (line: string) => process.stderr.write(`${line}\n`);
const { layout } = await demoImage({ signal: new AbortController().signal, report });
const parallel = await parallelWork();
const cluster = await Cluster.start({ main: BUILT_MAIN });
async function main(): Promise<void> {
  const secretFile = join(cluster.directory, 'secret');
  writeFileSync(secretFile, randomBytes(32).toString('hex'), { mode: 0o600 });
  const hosts = await cluster.network.addHosts(['h0', 'h1'], 0);
  report('converting');
  const image = await cluster.addImage(`oci:${layout}:latest`, REPOSITORY);
  const other = await cluster.addMade(busyboxImage(1, { randomBytes: OTHER_BYTES }), 'lib/other');
  const images: Images = { image, other };
  for (const host of [cluster.proxy.host, ...hosts]) await cluster.network.shape(host, { rate: flags.rate });
  const { trace, hostSteps, requests } = await record(hosts[0]!, images);
  const rounds: Round[] = [];
  for (let at = 0; at < Number(flags.rounds); at++) {
    rounds.push(await oneRound(hosts, images, secretFile));
    report(describe(rounds.at(-1)!));
  }
  const joined = await recordJoined(hosts, images, secretFile);
  const host = await startMesh(hosts.slice(0, 1), secretFile);
  const starter = await inService(host[0]!, other);
  await starter.cold(image);
  const steadyCosts = await steady(starter, image.contents, { alone: requests, joined }, secretFile);
  starter.close();
  print({
    ...{ trace, hostSteps, rate: flags.rate, cores: cpus().length },
    first: summary(rounds.map(({ first }) => first)),
    next: summary(rounds.map(({ next }) => each(next, (value) => value / containers))),
    fromPeer: summary(rounds.map(({ fromPeer }) => fromPeer)),
    ...{ together: containers, togetherMs: summary(rounds.map(({ together }) => together)).wallMs },
    steady: steadyCosts,
    parallel,
  });
}

/** What the program reads, all that the proxy is asked for it, and the host's work in between; on a host alone. */
async function record(host: ClusterHost, { image, other }: Images) {
  const recorder = await TraceRecorder.start(cluster.network.address, cluster.proxy.url);
  const requests = new RequestRecorder(recorder.url);
  const [lazy] = await cluster.startHosts([host], () => ({ proxies: [recorder.url] }));
  const starter = await inService(lazy!, other);
  recorder.begin();
  requests.take();
  const used = () => {
    const daemonMs = ownMs(String(lazy!.node.pid));
    return { daemonMs, helperMs: usedMs(host) - daemonMs };
  };
  const marks = [used()];
  // Of this process, the recorder alone is a server. When it is asked for chunks, the host has done its work before.
  const mark: ChannelListener = (message) => {
    const { request } = message as { readonly request: IncomingMessage };
    if (request.headers.range !== undefined) marks.push(used());
  };
  subscribe('http.server.request.start', mark);
  try {
    await starter.cold(image);
    marks.push(used());
  } finally {
    unsubscribe('http.server.request.start', mark);
    starter.close();
    requests.stop();
    await cluster.removeHosts([lazy!]);
  }
  const trace = recorder.stop();
  const firsts = trace.steps.map((_, step) => 1 + trace.steps.slice(0, step).flat().length);
  const ends = [...firsts, marks.length - 1];
  const hostSteps = ends.map((end, step) => {
    const [before, after] = [marks[ends[step - 1] ?? 0]!, marks[end]!];
    return {
      daemonMs: after.daemonMs - before.daemonMs,
      // The clock's ticks may fall between two readings.
      helperMs: Math.max(0, after.helperMs - before.helperMs),
    };
  });
  return { trace, hostSteps, requests: requests.take().filter(({ method }) => method !== 'POST') };
}

/** All that the proxy is asked by a host in the mesh, when another one has started the image before. */
async function recordJoined(
  hosts: readonly ClusterHost[],
  { image, other }: Images,
  secretFile: string,
): Promise<readonly RecordedRequest[]> {
  const recorder = await TraceRecorder.start(cluster.network.address, cluster.proxy.url);
  const requests = new RequestRecorder(recorder.url);
  const lazy = await startMesh(hosts, secretFile, { proxies: [recorder.url], roots: [cluster.proxy.url] });
  const [one, two] = [await inService(lazy[0]!, other), await inService(lazy[1]!, other)];
  try {
    await one.cold(image);
    requests.take();
    await two.cold(image);
    return requests.take().filter(({ headers }) => !('range' in headers));
  } finally {
    one.close();
    two.close();
    requests.stop();
    recorder.stop();
    await cluster.removeHosts(lazy);
  }
}

/** A host that has started another image before: it has seen its own code. */
async function inService(host: LazyHost, other: ClusterImage): Promise<Starter> {
  const starter = new Starter(host);
  await starter.cold(other, ['/bin/md5sum', randomFile(0)]);
  return starter;
}

function startMesh(
  hosts: readonly ClusterHost[],
  secretFile: string,
  { proxies, roots }: { readonly proxies?: readonly string[]; readonly roots?: readonly string[] } = {},
): Promise<LazyHost[]> {
  return cluster.startHosts(hosts, ({ address }) => ({
    mesh: { secretFile, listen: `${address}:6011`, advertise: `${address}:6011`, ...(roots && { roots }) },
    ...(proxies && { proxies }),
  }));
}

async function oneRound(
  hosts: readonly ClusterHost[],
  { image, other }: Images,
  secretFile: string,
): Promise<Round> {
  const lazy = await startMesh(hosts, secretFile);
  const [one, two] = [await inService(lazy[0]!, other), await inService(lazy[1]!, other)];
  try {
    const first = await measured(one, two, () => one.cold(image));
    const next = await measured(one, two, async () => {
      for (let at = 0; at < containers; at++) await one.container();
    });
    const together = await measured(one, two, async () => {
      await Promise.all(Array.from({ length: containers }, () => one.container()));
    });
    const fromPeer = await measured(two, one, () => two.cold(image));
    return { first, next, together, fromPeer };
  } finally {
    one.close();
    two.close();
    await cluster.removeHosts(lazy);
  }
}

/** Starts containers on one host as containerd does. */
class Starter {
  readonly host: ClusterHost;
  readonly #directory: string;
  readonly #client: SnapshotsClient;
  #parent = '';
  #containers = 0;

  constructor({ host, node }: LazyHost) {
    this.host = host;
    this.#directory = join(node.directory, 'roots');
    mkdirSync(this.#directory);
    this.#client = new SnapshotsClient(node.socketPath);
  }

  /** Pulls the image, and starts a first container. */
  async cold(image: ClusterImage, program: readonly string[] = PROGRAM): Promise<void> {
    this.#parent = await pullLazily(this.#client, image, AbortSignal.timeout(PATIENCE_MS));
    await this.container(program);
  }

  /** One more container, to its end. */
  async container(program: readonly string[] = PROGRAM): Promise<void> {
    const name = `container-${++this.#containers}`;
    const root = join(this.#directory, name);
    mkdirSync(root);
    const mounts = await this.#client.prepare(name, this.#parent, {}, AbortSignal.timeout(PATIENCE_MS));
    await withMounted(mounts, root, () => run('chroot', [root, ...program]));
  }

  close(): void {
    this.#client.close();
  }
}

async function measured(own: Starter, other: Starter, work: () => Promise<void>): Promise<MeasuredStart> {
  const namespaces = [own.host, cluster.proxy.host, other.host];
  const take = async () => ({
    used: namespaces.map(usedMs),
    machineMs: machineMs(),
    programMs: reapedMs('self'),
    receivedBytes: (await cluster.network.traffic(own.host)).receivedBytes,
  });
  const before = await take();
  const startMs = performance.now();
  await work();
  const wallMs = performance.now() - startMs;
  const after = await take();
  const [daemonMs = 0, proxyMs = 0, otherMs = 0] = after.used.map((used, at) => used - before.used[at]!);
  return {
    ...{ wallMs, daemonMs, proxyMs, otherMs, programMs: after.programMs - before.programMs },
    machineMs: after.machineMs - before.machineMs,
    receivedBytes: after.receivedBytes - before.receivedBytes,
  };
}

/**
 * What programs cost that have long run: what the proxy is asked by a host is asked again and again, and chunks of a host's
 * daemon as another host asks for them.
 */
async function steady(
  one: Starter,
  contents: readonly Content[],
  requests: { readonly alone: readonly RecordedRequest[]; readonly joined: readonly RecordedRequest[] },
  secretFile: string,
): Promise<MeasuredSteady> {
  const [ranges, others] = [true, false].map((is) =>
    requests.alone.filter(({ headers }) => is === 'range' in headers),
  );
  const replayedMs = async (replayed: readonly RecordedRequest[]) => {
    await replay(replayed, WARM_UP);
    const beforeMs = usedMs(cluster.proxy.host);
    await replay(replayed, REPEATS);
    return (usedMs(cluster.proxy.host) - beforeMs) / REPEATS;
  };
  const pullOf = async (all: readonly RecordedRequest[]) => {
    return { ms: await replayedMs(all), requests: all.length };
  };
  const [pull, meshPull] = [await pullOf(others!), await pullOf(requests.joined)];
  const chunksMs = await replayedMs(ranges!);
  await joinMs(contents, WARM_UP);
  const [joinOneMs, joinAllMs] = [await joinMs(contents.slice(0, 1)), await joinMs(contents)];
  const joinContentMs = Math.max(0, (joinAllMs - joinOneMs) / (contents.length - 1));
  return {
    ...{ pull, meshPull, proxySendMs: chunksMs / ranges!.length },
    ...{ joinCallMs: joinOneMs - joinContentMs, joinContentMs, heartbeatMs: await beatMs(contents) },
    ...(await transferMs(one.host, contents, secretFile)),
  };
}

async function replay(requests: readonly RecordedRequest[], times: number): Promise<void> {
  for (let at = 0; at < times; at++) {
    for (const { method, path, query, headers } of requests) {
      const { host: _host, connection: _connection, ...kept } = headers;
      const answer = await request(`${cluster.proxy.url}${path}?${query}`, {
        ...{ method: method as 'GET', headers: kept },
      });
      await answer.body.dump({ limit: MAX_BYTES });
    }
  }
}

/** Joins of strangers. */
async function joinMs(contents: readonly Content[], times = JOINS): Promise<number> {
  const beforeMs = usedMs(cluster.proxy.host);
  for (let at = 0; at < times; at++) await joinOnce(contents);
  return (usedMs(cluster.proxy.host) - beforeMs) / times;
}

/** Heartbeats of one that has joined. */
async function beatMs(contents: readonly Content[]): Promise<number> {
  const { transport, request } = stranger(contents);
  const beat = { ...request, edges: [] };
  try {
    const { session } = await transport.join(cluster.proxy.url, WHERE, request, signal());
    const send = async (times: number) => {
      for (let at = 0; at < times; at++) {
        await transport.heartbeat(cluster.proxy.url, session, beat, signal());
      }
    };
    await send(WARM_UP);
    const beforeMs = usedMs(cluster.proxy.host);
    await send(JOINS);
    return (usedMs(cluster.proxy.host) - beforeMs) / JOINS;
  } finally {
    await transport.close();
  }
}

async function joinOnce(contents: readonly Content[]): Promise<JoinAnswer> {
  const { transport, request } = stranger(contents);
  try {
    return await transport.join(cluster.proxy.url, WHERE, request, signal());
  } finally {
    await transport.close();
  }
}

/** A member that nobody has heard of. */
function stranger(contents: readonly Content[]) {
  const secret = newMemberSecret();
  const transport = new HttpRootTransport(() => Promise.resolve(null), null, secret);
  const member = {
    id: memberIdOf(secret),
    address: 'host.example:6011',
    ...{ zone: '', uploadBytesPerSecond: 1 },
  };
  const wanted = contents.map(({ blob, table }) => ({ blob, table }));
  return { transport, request: { member, contents: wanted } };
}

function signal(): AbortSignal {
  return AbortSignal.timeout(PATIENCE_MS);
}

/** A chunk that the host has, asked for as its children do: what it works, and what who gets it works to check it. */
async function transferMs(
  { enter, address }: ClusterHost,
  contents: readonly Content[],
  secretFile: string,
): Promise<Pick<MeasuredSteady, 'sendMs' | 'receiveMs' | 'requestMs'>> {
  const secret = Buffer.from(readFileSync(secretFile, 'utf8').trim());
  const transport = new HttpPeerTransport(peerTls({ kind: 'shared-secret', secret }));
  const peer = { id: '0'.repeat(32), address: `${address}:6011` };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  try {
    const { places } = await joinOnce(contents);
    const blobs: { place: Place; table: ChunkTable }[] = [];
    for (const place of places) {
      const bytes = await transport.table(peer, place.table, place.ticket, signal);
      const table = decodeChunkTable(bytes);
      if (table.blobSize >= table.chunkSize) blobs.push({ place, table });
    }
    let requestMs = Number.POSITIVE_INFINITY;
    const ask = async (times: number) => {
      for (let at = 0; at < times; at++) {
        for (const { place, table } of blobs) {
          const request = { table: place.table, sizes: table, ticket: place.ticket, first: 0, count: 1 };
          const deliver = (index: number, bytes: Buffer) => {
            if (!verifyChunk(table, index, bytes)) throw new Error('these are other bytes');
          };
          const startMs = performance.now();
          await transport.chunks(peer, request, { found: () => {}, deliver }, signal);
          requestMs = Math.min(requestMs, performance.now() - startMs);
        }
      }
    };
    await ask(WARM_UP);
    const before = { sendMs: usedMs({ enter }), own: process.cpuUsage() };
    await ask(REPEATS);
    const own = process.cpuUsage(before.own);
    const asked = REPEATS * blobs.length;
    return {
      sendMs: (usedMs({ enter }) - before.sendMs) / asked,
      receiveMs: (own.user + own.system) / 1000 / asked,
      requestMs,
    };
  } finally {
    await transport.close();
  }
}

function each(
  start: MeasuredStart,
  change: (value: number, name: keyof MeasuredStart) => number,
): MeasuredStart {
  const names = Object.keys(start) as (keyof MeasuredStart)[];
  return Object.fromEntries(
    names.map((name) => [name, change(start[name], name)]),
  ) as unknown as MeasuredStart;
}

/** The mean of what was worked, and the time of the fastest round: on a machine that has other things to do, that is nearest. */
function summary(all: readonly MeasuredStart[]): MeasuredStart {
  return each(all[0]!, (_, name) => {
    const values = all.map((start) => start[name]);
    return name === 'wallMs'
      ? Math.min(...values)
      : values.reduce((sum, value) => sum + value, 0) / all.length;
  });
}

function describe(round: Round): string {
  return Object.entries(round)
    .map(([name, { wallMs, daemonMs, programMs }]: [string, MeasuredStart]) => {
      return `${name}: ${wallMs.toFixed(0)} ms, daemon ${daemonMs} ms, program ${programMs} ms`;
    })
    .join('; ');
}

function print(costs: Measured): void {
  const machine = `${cpus().length} x ${cpus()[0]?.model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}`;
  if (flags.json) {
    printJson({ machine, program: PROGRAM.join(' '), rounds: Number(flags.rounds), ...costs });
    return;
  }
  console.log(`${machine}\nlinks of ${flags.rate}; ${PROGRAM.join(' ')}; ${flags.rounds} rounds\n`);
  const row = (
    name: string,
    { wallMs, daemonMs, programMs, proxyMs, otherMs, receivedBytes }: MeasuredStart,
  ) => [
    ...[name, ...[wallMs, daemonMs, programMs, proxyMs, otherMs].map((ms) => ms.toFixed(0))],
    (receivedBytes / 1e6).toFixed(1),
  ];
  const head = ['a container', 'ms', 'daemon', 'program', 'proxy', 'other host', 'received MB'];
  const rows = [
    row('first of a host', costs.first),
    row('next of a host', costs.next),
    row('first, from a host', costs.fromPeer),
  ];
  console.log(formatTable(head, rows));
  const { together, togetherMs, trace, steady, parallel } = costs;
  console.log(`${together} more at once: ${togetherMs.toFixed(0)} ms until the last has ended`);
  console.log(`all processors do ${parallel.toFixed(2)} times the work of one`);
  console.log(`a start reads ${chunksOf(trace)} chunks in ${trace.steps.length} steps\n`);
  const { pull, meshPull, ...others } = steady;
  const names: Readonly<Record<keyof typeof others, string>> = {
    proxySendMs: 'ms of the proxy for a chunk',
    sendMs: 'ms of a host that sends a chunk',
    receiveMs: 'ms of who receives it',
    requestMs: 'ms until it is there, at best',
    joinCallMs: 'ms of the root for a join',
    joinContentMs: 'ms for each content of a join',
    heartbeatMs: 'ms of the root for a heartbeat',
  };
  const pullOf = (name: string, { ms, requests }: PullCosts) => {
    return [`ms of the proxy for a pull ${name}, ${requests} requests`, ms.toFixed(2)];
  };
  const entries = [
    pullOf('without the mesh', pull),
    pullOf('in the mesh', meshPull),
    ...Object.entries(names).map(([key, name]) => [name, others[key as keyof typeof others].toFixed(2)]),
  ];
  console.log(formatTable(['of programs that have long run', ''], entries));
}

try {
  await main();
} finally {
  await cluster.remove();
}

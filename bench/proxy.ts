/**
 * Pulls through the proxy beside pulls straight from docker-registry and through docker-registry's own proxy mode: the
 * same image, the same clients, rounds interleaved. Wants `npm run build`, skopeo, curl and wrk.
 * Usage: node bench/proxy.ts [rounds] [pulls|cached|slow|link=RATE]...
 * With link=1gbit, say, the registry is in a network namespace behind a link of that speed (needs root).
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { demoImage } from '../demo/image.ts';
import { formatTable } from '../src/cli/output.ts';
import { type ImageManifest, parseManifest } from '../src/oci/manifest.ts';
import { buildImage } from '../test/support/images.ts';
import { run } from '../test/support/processes.ts';
import { type Server, startDadi, startDockerRegistry } from './proxy-servers.ts';
import { shapedLink } from './shaped-link.ts';

const NAME = 'lib/demo';
/** Another image, pulled first: servers in use have long run. */
const WARM_UP = 'lib/warm-up';
const WARM_UP_LAYERS = 4;
const WARM_UP_BYTES = 24 * 1024 * 1024;
const MANY_CLIENTS = 32;
const WRK_SECONDS = 4;
const HEADS = 5_000;
/** Until what a pull has set off in the background (conversions, write-back) is over. */
const QUIET_MS = 8_000;
const SLOW_READERS = 500;
const SLOW_SECONDS = 10;

const rounds = Number(process.argv[2] ?? 5);
const asked = process.argv.slice(3);
const rate = asked.find((each) => each.startsWith('link='))?.slice('link='.length) ?? null;
const named = asked.filter((each) => !each.startsWith('link='));
const parts = named.length > 0 ? named : ['pulls', 'cached', 'slow'];

const directory = mkdtempSync(join(tmpdir(), 'dadi-bench-'));
const { layout } = await demoImage({ signal: new AbortController().signal, report: console.error });
const link = rate === null ? null : await shapedLink(rate);
const straight = await startDockerRegistry('straight', null, link);
const running: Server[] = [straight];
try {
  const push = ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout}:latest`];
  await run('skopeo', [...push, `docker://${straight.host}/${NAME}:1`]);
  const manifest = await imageManifest(straight);
  await pushWarmUp();
  if (parts.includes('pulls')) await comparePulls(manifest);
  if (parts.includes('cached')) await compareCached(manifest);
  if (parts.includes('slow')) await compareSlowReaders(manifest);
} finally {
  for (const server of running) await server.stop();
  await link?.remove();
  rmSync(directory, { recursive: true });
}

async function imageManifest({ host }: Server): Promise<ImageManifest> {
  const headers = { accept: 'application/vnd.oci.image.manifest.v1+json' };
  const response = await fetch(`http://${host}/v2/${NAME}/manifests/1`, { headers });
  return parseManifest(Buffer.from(await response.arrayBuffer())) as ImageManifest;
}

/** The proxies, new and empty. */
async function proxies(): Promise<Server[]> {
  return [
    await startDockerRegistry('docker-registry proxy', straight.host),
    await startDadi('dadi proxy', straight.host, { convert: false }),
    await startDadi('dadi proxy, converting', straight.host, { convert: true }),
  ];
}

async function comparePulls(manifest: ImageManifest): Promise<void> {
  const times = new Map<string, number[]>();
  const timed = async (what: string, server: Server, pull: () => Promise<void>) => {
    const before = server.usage().cpuSeconds;
    const startMs = performance.now();
    await pull();
    note(times, `${what}|${server.name}|s`, (performance.now() - startMs) / 1000);
    note(times, `${what}|${server.name}|cpu`, server.usage().cpuSeconds - before);
  };
  const failures = new Map<string, number>();
  const many = async (server: Server) => {
    const pulls = Array.from({ length: MANY_CLIENTS }, () => curlPull(server, manifest));
    const failed = (await Promise.allSettled(pulls)).filter(({ status }) => status === 'rejected').length;
    if (failed > 0) failures.set(server.name, (failures.get(server.name) ?? 0) + failed);
  };
  for (let round = 0; round < rounds; round++) {
    // Each kind of cold pull has servers of its own; the order changes from round to round.
    for (const [what, pull] of [
      ['1 client, skopeo', skopeoPull],
      [`${MANY_CLIENTS} clients, curl`, many],
    ] as const) {
      const servers = rotate([straight, ...(await proxies())], round);
      try {
        for (const server of servers) await skopeoPull(server, WARM_UP);
        await sleep(QUIET_MS);
        for (const server of servers) await timed(`${what}, cold`, server, () => pull(server));
        // What the first pull has set off is not this measure's.
        await sleep(QUIET_MS);
        for (const server of servers) await timed(`${what}, cached`, server, () => pull(server));
      } finally {
        for (const server of servers) if (server !== straight) await server.stop();
      }
    }
  }
  console.log(
    `\nPulls of ${NAME} (${manifest.layers.length} layers), medians of ${rounds} interleaved rounds`,
  );
  const rows: string[][] = [];
  for (const key of [...times.keys()].filter((each) => each.endsWith('|s'))) {
    const [what = '', server = ''] = key.split('|');
    const seconds = median(times.get(key));
    const base = median(times.get(`${what}|${straight.name}|s`));
    const pairs = (times.get(key) ?? []).map(
      (each, index) => each / (times.get(`${what}|${straight.name}|s`)?.[index] ?? 1),
    );
    const cpu = median(times.get(`${what}|${server}|cpu`));
    rows.push([
      what,
      server,
      seconds.toFixed(2),
      (seconds / base).toFixed(2),
      median(pairs).toFixed(2),
      cpu.toFixed(2),
    ]);
  }
  for (const [server, count] of failures) console.log(`${count} pulls from ${server} failed`);
  rows.sort((a, b) => (a[0] ?? '').localeCompare(b[0] ?? ''));
  console.log(formatTable(['what', 'server', 's', 'of straight', 'pair by pair', "server's CPU s"], rows));
}

async function skopeoPull({ host }: Server, name = NAME): Promise<void> {
  const target = mkdtempSync(join(directory, 'pull-'));
  const flags = ['--insecure-policy', 'copy', '--src-tls-verify=false'];
  await run('skopeo', [...flags, `docker://${host}/${name}:1`, `dir:${target}`]);
  rmSync(target, { recursive: true });
}

/** Layers of noise, straight into the registry. */
async function pushWarmUp(): Promise<void> {
  const layers = Array.from({ length: WARM_UP_LAYERS }, (_, index) =>
    join(directory, `warm-up-${index}.tar`),
  );
  for (const layer of layers) {
    const noise = join(directory, 'noise');
    writeFileSync(noise, randomBytes(WARM_UP_BYTES));
    await run('tar', ['-C', directory, '-cf', layer, 'noise']);
  }
  const image = await buildImage(directory, 'warm-up', layers);
  const push = ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${image.layout}:${image.tag}`];
  await run('skopeo', [...push, `docker://${straight.host}/${WARM_UP}:1`]);
}

/** All blobs at once, as containerd asks for them, and nothing done with them: the servers are measured. */
async function curlPull({ host }: Server, { config, layers }: ImageManifest): Promise<void> {
  const urls = [config, ...layers].flatMap(({ digest }) => [
    '-o',
    '/dev/null',
    `http://${host}/v2/${NAME}/blobs/${digest}`,
  ]);
  await run('curl', ['-sS', '--fail', '--parallel', ...urls]);
}

async function compareCached(manifest: ImageManifest): Promise<void> {
  const servers = [
    straight,
    await startDockerRegistry('docker-registry proxy', straight.host),
    await startDadi('dadi proxy', straight.host, { convert: false }),
  ];
  running.push(...servers.slice(1));
  for (const server of servers) await skopeoPull(server);
  const largest = manifest.layers.reduce((a, b) => (a.size > b.size ? a : b));
  const url = (server: Server) => `http://${server.host}/v2/${NAME}/blobs/${largest.digest}`;
  const ranges = ['-s', join(import.meta.dirname, 'proxy-ranges.lua')];
  const kinds: readonly { readonly name: string; readonly load: (server: Server) => Promise<Load> }[] = [
    { name: 'manifest HEAD', load: (server) => apacheBench(`http://${server.host}/v2/${NAME}/manifests/1`) },
    { name: 'blob, 256 KiB ranges', load: (server) => wrk(['-c16', ...ranges, url(server)]) },
    { name: 'blob, whole', load: (server) => wrk(['-c4', url(server)]) },
  ];
  const seen = new Map<string, number[]>();
  for (let round = 0; round < rounds; round++) {
    for (const { name, load } of kinds) {
      for (const server of rotate(servers, round)) {
        const before = server.usage().cpuSeconds;
        const result = await load(server);
        const key = `${name}|${server.name}`;
        note(seen, `${key}|rate`, result.requestsPerSecond);
        note(seen, `${key}|bytes`, result.megabytesPerSecond);
        note(seen, `${key}|p50`, result.p50Ms);
        note(seen, `${key}|p99`, result.p99Ms);
        note(seen, `${key}|cpu`, ((server.usage().cpuSeconds - before) / result.requests) * 1e6);
      }
    }
  }
  console.log(
    `\nCached, ${rounds} interleaved rounds of ${WRK_SECONDS} s, medians; the blob has ${Math.round(largest.size / 1e6)} MB`,
  );
  const rows = kinds.flatMap(({ name }) =>
    servers.map((server) => {
      const of = (what: string) => median(seen.get(`${name}|${server.name}|${what}`));
      return [
        name,
        server.name,
        of('rate').toFixed(of('rate') < 100 ? 1 : 0),
        of('bytes').toFixed(0),
        of('p50').toFixed(2),
        of('p99').toFixed(2),
        of('cpu').toFixed(0),
        server.usage().peakMib.toFixed(0),
      ];
    }),
  );
  console.log(
    formatTable(
      ['what', 'server', 'requests/s', 'MB/s', 'p50 ms', 'p99 ms', 'CPU µs/request', 'peak MiB'],
      rows,
    ),
  );
}

interface Load {
  readonly requests: number;
  readonly requestsPerSecond: number;
  readonly megabytesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** HEAD requests: wrk waits for a body behind each. */
async function apacheBench(target: string): Promise<Load> {
  const csv = join(directory, 'percentages.csv');
  const accept = 'Accept: application/vnd.oci.image.manifest.v1+json';
  const args = ['-i', '-k', '-q', '-c16', `-n${HEADS}`, '-e', csv, '-H', accept, target];
  const { stdout } = await run('ab', args);
  if (!/^Failed requests: +0$/m.test(stdout)) throw new Error(`ab ${args.join(' ')} saw errors:\n${stdout}`);
  const requestsPerSecond = Number(/Requests per second: +([\d.]+)/.exec(stdout)?.[1]);
  const percentages = readFileSync(csv, 'utf8').split('\n');
  const ms = (percentage: number) => Number(percentages[percentage + 1]?.split(',')[1]);
  return { requests: HEADS, requestsPerSecond, megabytesPerSecond: 0, p50Ms: ms(50), p99Ms: ms(99) };
}

async function wrk(what: readonly string[]): Promise<Load> {
  const args = ['-t1', `-d${WRK_SECONDS}s`, '--timeout', '60s', '--latency', ...what];
  const { stdout } = await run('wrk', args);
  if (/Non-2xx|Socket errors/.test(stdout)) throw new Error(`wrk ${args.join(' ')} saw errors:\n${stdout}`);
  const group = (pattern: RegExp) => pattern.exec(stdout)?.slice(1) ?? [];
  const [requests] = group(/(\d+) requests in/);
  const [rate] = group(/Requests\/sec:\s+([\d.]+)/);
  const [transfer, transferUnit] = group(/Transfer\/sec:\s+([\d.]+)([KMG]?B)/);
  const ms = ([value, unit]: string[]) =>
    Number(value) * ({ us: 0.001, ms: 1, s: 1000 }[unit ?? ''] ?? Number.NaN);
  const scale = { B: 1, KB: 1024, MB: 1024 ** 2, GB: 1024 ** 3 }[transferUnit ?? ''] ?? Number.NaN;
  return {
    requests: Number(requests),
    requestsPerSecond: Number(rate),
    megabytesPerSecond: (Number(transfer) * scale) / 1e6,
    p50Ms: ms(group(/50%\s+([\d.]+)(us|ms|s)/)),
    p99Ms: ms(group(/99%\s+([\d.]+)(us|ms|s)/)),
  };
}

/** Clients that take a few KiB now and then: what a server holds for each of them. */
async function compareSlowReaders(manifest: ImageManifest): Promise<void> {
  const servers = [
    await startDockerRegistry('docker-registry proxy', straight.host),
    await startDadi('dadi proxy', straight.host, { convert: false }),
  ];
  running.push(...servers);
  const largest = manifest.layers.reduce((a, b) => (a.size > b.size ? a : b));
  const rows: string[][] = [];
  for (const server of servers) {
    // A warm-up makes buffers and code be there before the first look.
    await skopeoPull(server);
    const before = server.usage().residentMib;
    const sockets = await Promise.all(
      Array.from({ length: SLOW_READERS }, () =>
        slowReader(server.host, `/v2/${NAME}/blobs/${largest.digest}`),
      ),
    );
    await sleep(SLOW_SECONDS * 1000);
    const during = server.usage().residentMib;
    const startMs = performance.now();
    await fetch(`http://${server.host}/v2/`).then((response) => response.text());
    const pingMs = performance.now() - startMs;
    for (const socket of sockets) socket.destroy();
    rows.push([
      server.name,
      before.toFixed(0),
      during.toFixed(0),
      server.usage().peakMib.toFixed(0),
      pingMs.toFixed(1),
    ]);
  }
  console.log(
    `\n${SLOW_READERS} readers of ${Math.round(largest.size / 1e6)} MB that take 4 KiB a second, after ${SLOW_SECONDS} s`,
  );
  console.log(
    formatTable(['server', 'MiB before', 'MiB with them', 'peak MiB', 'GET /v2/ beside them, ms'], rows),
  );
}

async function slowReader(host: string, path: string): Promise<Socket> {
  const [name = '', port] = host.split(':');
  const socket = connect({
    host: name,
    port: Number(port),
    onread: {
      buffer: Buffer.alloc(4096),
      callback: () => {
        socket.pause();
        setTimeout(() => socket.resume(), 1000).unref();
        return true;
      },
    },
  });
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
  return socket;
}

function note(into: Map<string, number[]>, key: string, value: number): void {
  into.set(key, [...(into.get(key) ?? []), value]);
}

function rotate<T>(items: readonly T[], by: number): T[] {
  const turn = by % items.length;
  return [...items.slice(turn), ...items.slice(0, turn)];
}

function median(values: readonly number[] = []): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

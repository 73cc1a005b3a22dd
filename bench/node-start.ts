/**
 * How long a pod's container takes from the pull to the program's first output, on a link of 100 Mbit/s and 2 ms: with
 * the node daemon's snapshotter, and with containerd's overlayfs snapshotter and the same proxy. Every round is cold:
 * another containerd, another daemon, empty caches, the kernel's dropped. Rounds are interleaved.
 * Usage: node bench/node-start.ts [--rounds N] [--rate 100mbit] [--delay MS-EACH-WAY] [--json]
 * Needs root, containerd, runc, docker-registry, skopeo, iproute2 and what mounting needs.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { demoImage } from '../demo/image.ts';
import { PROGRAM } from '../demo/recipe.ts';
import { formatTable, printJson } from '../src/cli/output.ts';
import type { ImageManifest } from '../src/oci/manifest.ts';
import { pauseImage } from '../test/support/busybox-image.ts';
import { writeHosts } from '../test/support/containerd.ts';
import { converted, pullManifest } from '../test/support/converted-image.ts';
import { CriContainerd } from '../test/support/cri/cri-containerd.ts';
import { DadiNode } from '../test/support/dadi-node.ts';
import { pushMade } from '../test/support/made-image.ts';
import { freePort, run, type StartedProcess, start } from '../test/support/processes.ts';
import { type ShapedLink, shapedLink } from './shaped-link.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const RELAY = resolve(import.meta.dirname, 'delay-relay.ts');
/** The registry as images are named after it. It is no host of any network. */
const HOST = 'reg.example';
const IMAGE = 'lib/demo';
const PAUSE = 'lib/pause';
const POLL_MS = 2;
const PATIENCE_MS = 600_000;
/** What is wanted: parts of the time and of the image. */
const WANTED_TIME = 1 / 5;
const WANTED_BYTES = 0.05;

const PROGRAMS: Readonly<Record<string, readonly string[]>> = {
  'prints its version': ['/usr/bin/python3', '--version'],
  'Python with numpy': PROGRAM,
};
const SNAPSHOTTERS = ['dadi', 'overlayfs'] as const;

interface Round {
  readonly snapshotter: (typeof SNAPSHOTTERS)[number];
  readonly program: string;
  /** All from the beginning of the pull. */
  readonly pulledMs: number;
  readonly startedMs: number;
  readonly firstOutputMs: number;
  /** That came over the link until the program's end, with all headers. */
  readonly linkBytes: number;
  readonly output: string;
}

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    rate: { type: 'string', default: '100mbit' },
    delay: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});

const work = mkdtempSync(join(tmpdir(), 'dadi-b-'));
const running: StartedProcess[] = [];
const link = await shapedLink(flags.rate);
try {
  await main();
} finally {
  for (const each of running.reverse()) await each.stop();
  await link.remove();
  rmSync(work, { recursive: true, force: true });
}

async function main(): Promise<void> {
  const report = (line: string) => process.stderr.write(`${line}\n`);
  const { layout } = await demoImage({ signal: new AbortController().signal, report });
  const registry = await startRegistryBehind(link);
  const push = ['--insecure-policy', 'copy', '--quiet', '--dest-tls-verify=false', `oci:${layout}:latest`];
  await run('skopeo', [...push, `docker://${registry}/${IMAGE}:1`]);
  await pushMade(new URL(`http://${registry}`), PAUSE, '1', pauseImage());
  const proxy = await startProxyBehind(link, registry);
  report('converting');
  await convert(proxy, PAUSE);
  const manifest = await convert(proxy, IMAGE);
  const imageBytes = manifest.layers.reduce((sum, { size }) => sum + size, 0);
  await cacheOriginals(proxy, manifest);
  const rounds: Round[] = [];
  for (let at = 0; at < Number(flags.rounds); at++) {
    for (const program of Object.keys(PROGRAMS)) {
      for (const snapshotter of SNAPSHOTTERS) {
        const round = await coldStart(snapshotter, program, proxy, `${at}${rounds.length}`);
        report(describe(round));
        rounds.push(round);
      }
    }
  }
  summarise(rounds, imageBytes);
}

async function startRegistryBehind({ address, enter }: ShapedLink): Promise<string> {
  const host = `${address}:${await freePort()}`;
  const config = join(work, 'registry.yml');
  const storage = { filesystem: { rootdirectory: join(work, 'registry') } };
  writeFileSync(config, JSON.stringify({ version: '0.1', storage, http: { addr: host } }));
  await serve([...enter, 'docker-registry', 'serve', config], `http://${host}/v2/`);
  return host;
}

/** @returns HOST:PORT of the proxy as it is reached over the link, delay included */
async function startProxyBehind({ address, enter }: ShapedLink, registry: string): Promise<string> {
  const [port, relayPort] = [await freePort(), await freePort()];
  const config = join(work, 'proxy.json');
  const upstreams = [{ name: HOST, url: `http://${registry}` }];
  const dataDirectory = join(work, 'proxy');
  const settings = { listen: `127.0.0.1:${port}`, admin: null, dataDirectory, logLevel: 'warn', upstreams };
  writeFileSync(config, JSON.stringify({ ...settings, tagTtlMs: 3_600_000 }));
  const relay = [RELAY, address, String(relayPort), String(port), flags.delay];
  running.push(
    await start(enter[0]!, [...enter.slice(1), process.execPath, ...relay], {
      logPath: join(work, 'relay.log'),
      readyWhen: () => true,
    }),
  );
  await serve(
    [...enter, process.execPath, MAIN, 'proxy', '--config', config],
    `http://${address}:${relayPort}/readyz`,
  );
  return `${address}:${relayPort}`;
}

async function serve([program = '', ...args]: readonly string[], readyUrl: string): Promise<void> {
  const logPath = join(work, `log-${running.length}`);
  running.push(await start(program, args, { logPath, readyWhen: async () => (await fetch(readyUrl)).ok }));
}

async function convert(proxy: string, repository: string): Promise<ImageManifest> {
  const url = `http://${proxy}`;
  const { manifest, digest } = await pullManifest(url, HOST, repository);
  await converted(url, HOST, repository, digest);
  return manifest;
}

/** The proxy keeps what it pulls: nobody waits for upstream in either way. */
async function cacheOriginals(proxy: string, { config, layers }: ImageManifest): Promise<void> {
  for (const { digest } of [config, ...layers]) {
    const blob = await fetch(`http://${proxy}/v2/${IMAGE}/blobs/${digest}?ns=${HOST}`, { method: 'HEAD' });
    if (!blob.ok) throw new Error(`the proxy has no ${digest}`);
  }
}

async function coldStart(
  snapshotter: Round['snapshotter'],
  program: string,
  proxy: string,
  name: string,
): Promise<Round> {
  const directory = join(work, name);
  const hostsDirectory = join(directory, 'hosts');
  mkdirSync(directory);
  writeHosts(hostsDirectory, HOST, proxy, new URL(`http://${proxy}`));
  const node =
    snapshotter === 'dadi'
      ? await DadiNode.start({ directory: join(directory, 'n'), proxies: [`http://${proxy}`] })
      : null;
  const containerd = await CriContainerd.start({
    directory: join(directory, 'c'),
    ...{ hostsDirectory, pauseImage: `${HOST}/${PAUSE}:1`, snapshotter },
    ...(node === null ? {} : { dadiSocketPath: node.socketPath }),
  });
  try {
    // As the kubelet does: the pod is there before its containers' images are.
    const pod = await containerd.runPod();
    await run('sync', []);
    writeFileSync('/proc/sys/vm/drop_caches', '3');
    const beforeBytes = link.receivedBytes();
    const startMs = performance.now();
    await containerd.pull(`${HOST}/${IMAGE}:1`);
    const pulledMs = performance.now() - startMs;
    const container = await containerd.startContainer(pod, `${HOST}/${IMAGE}:1`, ...PROGRAMS[program]!);
    const startedMs = performance.now() - startMs;
    while (container.output() === '') {
      if (performance.now() - startMs > PATIENCE_MS) throw new Error(`${program} printed nothing`);
      await sleep(POLL_MS);
    }
    const firstOutputMs = performance.now() - startMs;
    const { exitCode, output } = await container.ended();
    if (exitCode !== 0) throw new Error(`${program} ended with ${exitCode}: ${output}`);
    const linkBytes = link.receivedBytes() - beforeBytes;
    return { snapshotter, program, pulledMs, startedMs, firstOutputMs, linkBytes, output: output.trim() };
  } finally {
    await containerd.remove();
    await node?.remove();
    rmSync(directory, { recursive: true, force: true });
  }
}

function describe({ program, snapshotter, pulledMs, startedMs, firstOutputMs, linkBytes }: Round): string {
  const times = `pulled ${seconds(pulledMs)}, started ${seconds(startedMs)}, output ${seconds(firstOutputMs)}`;
  return `${program}, ${snapshotter}: ${times}, ${megabytes(linkBytes)}`;
}

function summarise(rounds: readonly Round[], imageBytes: number): void {
  const results = Object.keys(PROGRAMS).map((program) => {
    const [ours, theirs] = SNAPSHOTTERS.map((snapshotter) => {
      const own = rounds.filter((round) => round.program === program && round.snapshotter === snapshotter);
      return {
        pulledMs: median(own.map((round) => round.pulledMs)),
        firstOutputMs: median(own.map((round) => round.firstOutputMs)),
        linkBytes: median(own.map((round) => round.linkBytes)),
      };
    });
    if (ours === undefined || theirs === undefined) throw new Error('no rounds');
    const outputs = new Set(rounds.filter((round) => round.program === program).map(({ output }) => output));
    if (outputs.size !== 1) throw new Error(`the outputs differ: ${[...outputs].join(' / ')}`);
    return {
      program,
      ...{ dadi: ours, overlayfs: theirs },
      timeRatio: ours.firstOutputMs / theirs.firstOutputMs,
      imagePart: ours.linkBytes / imageBytes,
    };
  });
  const machine = `${cpus().length} x ${cpus()[0]?.model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}`;
  if (flags.json) {
    printJson({
      machine,
      rate: flags.rate,
      delayEachWayMs: Number(flags.delay),
      imageBytes,
      results,
      rounds,
    });
    return;
  }
  console.log(`${machine}\n${flags.rate}, ${flags.delay} ms each way, median of ${flags.rounds} rounds each`);
  console.log(`image: ${megabytes(imageBytes)} of compressed layers\n`);
  const rows = results.flatMap(({ program, dadi, overlayfs, timeRatio, imagePart }) => [
    [program, 'dadi', seconds(dadi.pulledMs), seconds(dadi.firstOutputMs), megabytes(dadi.linkBytes)],
    [
      '',
      'overlayfs',
      seconds(overlayfs.pulledMs),
      seconds(overlayfs.firstOutputMs),
      megabytes(overlayfs.linkBytes),
    ],
    ['', 'part', '', timeRatio.toFixed(3), `${(100 * imagePart).toFixed(1)} % of the image`],
  ]);
  console.log(formatTable(['PROGRAM', 'SNAPSHOTTER', 'PULLED', 'FIRST OUTPUT', 'OVER THE LINK'], rows));
  const version = results[0];
  if (version === undefined) return;
  const reached = (is: boolean) => (is ? 'reached' : 'NOT REACHED');
  const isFast = results.every(({ timeRatio }) => timeRatio <= WANTED_TIME);
  console.log(`\nat most a fifth of the time: ${reached(isFast)}`);
  console.log(`under 5 % of the image, ${version.program}: ${reached(version.imagePart < WANTED_BYTES)}`);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/**
 * A cluster of any size in a simulation: the real trees, roots' rules and agents' rules (src/p2p), with virtual time in
 * place of the clock, and links, processors and costs as they were measured by bench/mesh-costs.ts.
 * Usage: node bench/mesh-costs.ts --json >COSTS
 *        node bench/swarm.ts run COSTS [--hosts N,N] [--variants N] [--threads N] [--json] >ROWS
 *        node bench/swarm.ts draw DIRECTORY ROWS...   pictures of what runs with --json have printed
 *        node bench/mesh.ts --hosts 1,2,8,16,32 --json >MEASURED
 *        node bench/swarm.ts check COSTS MEASURED     predicted against measured
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable, printJson } from '../src/cli/output.ts';
import { lineChart } from './swarm/chart.ts';
import { experiment, type Row, type Rows } from './swarm/experiment.ts';
import { type MeasuredCosts, type MeshBench, measuredCosts, scenarioOf } from './swarm/measured.ts';
import { PATIENCE_MS, type SwarmResult, simulate } from './swarm/swarm.ts';

const HEAD = [
  ...['series', 'hosts', 'containers', 'median s', 'p99 s', 'p99.9 s', 'last s'],
  ...['proxies sent MB', 'busiest proxy s', 'depth', 'repairs', 'failed', 'unfinished'],
];
const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    hosts: { type: 'string', default: '1,10,100,1000,10000' },
    variants: { type: 'string', default: '1000' },
    threads: { type: 'string', default: String(cpus().length) },
    json: { type: 'boolean', default: false },
  },
});
const [command, ...names] = positionals;
if (command === 'check') await check(names[0], names[1]);
else if (command === 'run') await run(names[0]);
else if (command === 'draw') draw(names[0]!, names.slice(1));
else throw new Error('say "check", "run" or "draw"');

function read<T>(file: string | undefined, program: string): T {
  if (file === undefined) throw new Error(`name the file that ${program} --json made`);
  return JSON.parse(readFileSync(file, 'utf8')) as T;
}

function readCosts(file: string | undefined, isFresh: boolean) {
  const measured = read<MeasuredCosts>(file, 'bench/mesh-costs.ts');
  const costs = measuredCosts(measured, { isFresh });
  process.stderr.write(`costs: ${JSON.stringify(costs)}\n`);
  return { trace: measured.trace, costs, parallel: measured.parallel };
}

async function check(costsFile: string | undefined, benchFile: string | undefined): Promise<void> {
  const { costs, parallel } = readCosts(costsFile, true);
  const bench = read<MeshBench>(benchFile, 'bench/mesh.ts');
  const rows: string[][] = [];
  for (const round of bench.rounds.filter(({ mode }) => mode !== 'pull')) {
    const result = await simulate(scenarioOf(bench, costs, round, parallel));
    const seconds = round.seconds.at(-1)!;
    const predicted = result.lastMs / 1000;
    rows.push([
      ...[String(round.hosts), round.mode, seconds.toFixed(2), predicted.toFixed(2)],
      `${((predicted / seconds - 1) * 100).toFixed(0)} %`,
      ...[(round.proxySentBytes / 1e6).toFixed(1), (result.proxyBytes / 1e6).toFixed(1)],
    ]);
  }
  const head = ['hosts', 'mode', 'last, measured s', 'predicted s', 'off by'];
  console.log(formatTable([...head, 'proxy sent, measured MB', 'predicted MB'], rows));
}

async function run(costsFile: string | undefined): Promise<void> {
  const { trace, costs } = readCosts(costsFile, false);
  const startMs = performance.now();
  const rows = await experiment({
    ...{ trace, costs },
    ...{ hosts: flags.hosts.split(',').map(Number), variantHosts: Number(flags.variants) },
    threads: Number(flags.threads),
    onRow: (row) => {
      const at = ((performance.now() - startMs) / 1000).toFixed(0);
      process.stderr.write(`${at} s, ${row.result.events} events: ${describe(row)}\n`);
    },
  });
  if (flags.json) printJson({ costs, ...rows });
  else {
    console.log(formatTable(HEAD, [...rows.curves, ...rows.variants].map(cells)));
    console.log('\nwithin ten seconds:');
    console.log(formatTable(HEAD, rows.streams.map(cells)));
  }
}

function cells({ series, hosts, containers, result }: Row): string[] {
  const { lastMs, proxyBytes, proxyBusyMs, depth, repairs, failed, unfinished } = result;
  const seconds = (part: number) => {
    const ms = part === 1 && unfinished === 0 ? lastMs : quantileMs(result, part);
    return ms < PATIENCE_MS ? (ms / 1000).toFixed(2) : `> ${PATIENCE_MS / 1000}`;
  };
  return [
    ...[series, String(hosts), String(containers), seconds(0.5), seconds(0.99), seconds(0.999)],
    ...[seconds(1), (proxyBytes / 1e6).toFixed(0), (proxyBusyMs / 1000).toFixed(1)],
    ...[depth, repairs, failed, unfinished].map(String),
  ];
}

function describe(row: Row): string {
  return HEAD.map((name, at) => `${name} ${cells(row)[at]}`).join(', ');
}

/** Infinite if so many had not started when the simulation was ended. Those on hosts that failed do not count. */
function quantileMs({ containerMs, unfinished }: SwarmResult, part: number): number {
  const all = containerMs.length + unfinished;
  return containerMs[Math.min(all - 1, Math.floor(part * all))] ?? Number.POSITIVE_INFINITY;
}

function draw(directory: string, files: readonly string[]): void {
  const all = files.map((file) => read<Rows>(file, 'bench/swarm.ts run'));
  const curves = all.flatMap((rows) => rows.curves).toSorted((a, b) => a.hosts - b.hosts);
  // Of the largest number of hosts.
  const [streams = []] = all.map((rows) => rows.streams).toSorted((a, b) => b[0]!.hosts - a[0]!.hosts);
  const names = [...new Set(curves.map(({ series }) => series))];
  const curvesOf = (y: (row: Row) => number) =>
    names.map((name, style) => ({
      ...{ name, style },
      points: curves.filter(({ series }) => series === name).map((row) => [row.hosts, y(row)] as const),
    }));
  const notes = [
    'Simulated: real topology and agent code, on measured costs. An image of 15 MB read at the start.',
    'Hosts of 4 cores and 10 Gbit/s; a proxy is one process on one core, with 25 Gbit/s; 0.1 ms between hosts.',
    `The simulation ends after ${PATIENCE_MS / 1000} s.`,
  ];
  const x = { label: 'hosts that start ten containers each at the same moment', isLogarithmic: true };
  const charts = {
    'swarm-start': {
      ...{ title: 'Until 99 % of the containers have started', x, notes },
      y: { label: 'seconds', isLogarithmic: true },
      curves: curvesOf((row) => Math.min(quantileMs(row.result, 0.99), PATIENCE_MS) / 1000),
    },
    'swarm-egress': {
      ...{ title: 'What the proxies send', x, notes },
      y: { label: 'MB', isLogarithmic: true },
      curves: curvesOf((row) => row.result.proxyBytes / 1e6).filter(({ name }) => name !== 'warm'),
    },
    'swarm-stream': {
      title: `${streams[0]?.containers.toLocaleString('en-US')} containers within ten seconds on ${streams[0]?.hosts} hosts`,
      x: { label: 'seconds that a container took from when it was asked for', isLogarithmic: true },
      y: { label: '% of the containers' },
      curves: streams.map(({ series, result }) => ({
        ...{ name: series, style: names.indexOf(series), points: shares(result) },
      })),
      notes,
    },
  };
  for (const [name, chart] of Object.entries(charts)) {
    writeFileSync(join(directory, `${name}.svg`), lineChart(chart));
  }
}

/** Of the containers that were asked for, which part had started after so many seconds; nothing if none has. */
function shares({ containerMs, failed, unfinished }: SwarmResult): [x: number, y: number][] {
  if (containerMs.length === 0) return [];
  const all = containerMs.length + failed + unfinished;
  return Array.from({ length: 101 }, (_, percent) => {
    const at = Math.min(containerMs.length - 1, Math.floor((percent / 100) * containerMs.length));
    return [containerMs[at]! / 1000, (100 * (at + 1)) / all];
  });
}

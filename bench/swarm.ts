/**
 * A cluster of any size in a simulation: the real trees, roots' rules and agents' rules (src/p2p), with virtual time in
 * place of the clock, and links, processors and costs as they were measured by bench/mesh-costs.ts.
 * Usage: node bench/mesh-costs.ts --json >COSTS
 *        node bench/swarm.ts run COSTS [--hosts N,N] [--variants N] [--svg DIRECTORY] [--json]
 *        node bench/mesh.ts --hosts 1,2,8,16,32 --json >MEASURED
 *        node bench/swarm.ts check COSTS MEASURED     predicted against measured
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable, printJson } from '../src/cli/output.ts';
import { lineChart } from './swarm/chart.ts';
import { experiment, type Row, type Rows } from './swarm/experiment.ts';
import { type MeasuredCosts, type MeshBench, measuredCosts, scenarioOf } from './swarm/measured.ts';
import { type SwarmResult, simulate } from './swarm/swarm.ts';

/** Rejections are without number here, and their stacks nobody looks at. */
Error.stackTraceLimit = 0;

const HEAD = [
  ...['series', 'hosts', 'containers', 'median s', 'p99 s', 'p99.9 s', 'last s'],
  ...['proxies sent MB', 'busiest proxy s', 'depth', 'repairs', 'failed', 'unfinished'],
];
const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    hosts: { type: 'string', default: '1,10,100,1000,10000' },
    variants: { type: 'string', default: '1000' },
    svg: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const [command, costsFile, measuredFile] = positionals;
const measured = read<MeasuredCosts>(costsFile, 'bench/mesh-costs.ts');
const costs = measuredCosts(measured, { isFresh: command === 'check' });
process.stderr.write(`costs: ${JSON.stringify(costs)}\n`);
if (command === 'check') await check(read<MeshBench>(measuredFile, 'bench/mesh.ts'));
else if (command === 'run') await run();
else throw new Error('say "check" or "run"');

function read<T>(file: string | undefined, program: string): T {
  if (file === undefined) throw new Error(`name the file that ${program} --json made`);
  return JSON.parse(readFileSync(file, 'utf8')) as T;
}

async function check(bench: MeshBench): Promise<void> {
  const rows: string[][] = [];
  for (const round of bench.rounds.filter(({ mode }) => mode !== 'pull')) {
    const result = await simulate(scenarioOf(bench, costs, round));
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

async function run(): Promise<void> {
  const startMs = performance.now();
  const rows = await experiment({
    ...{ trace: measured.trace, costs },
    ...{ hosts: flags.hosts.split(',').map(Number), variantHosts: Number(flags.variants) },
    onRow: (row) => {
      const at = ((performance.now() - startMs) / 1000).toFixed(0);
      process.stderr.write(`${at} s, ${row.result.events} events: ${describe(row)}\n`);
    },
  });
  if (flags.svg !== undefined) draw(rows, flags.svg);
  if (flags.json) printJson({ costs, ...rows });
  else {
    console.log(formatTable(HEAD, [...rows.curves, ...rows.variants].map(cells)));
    console.log('\nwithin ten seconds:');
    console.log(formatTable(HEAD, rows.streams.map(cells)));
  }
}

function cells({ series, hosts, containers, result }: Row): string[] {
  const { lastMs, proxyBytes, proxyBusyMs, depth, repairs, failed, unfinished } = result;
  const seconds = (part: number) => (quantile(result, part) / 1000).toFixed(2);
  return [
    ...[series, String(hosts), String(containers), seconds(0.5), seconds(0.99), seconds(0.999)],
    ...[(lastMs / 1000).toFixed(2), (proxyBytes / 1e6).toFixed(0), (proxyBusyMs / 1000).toFixed(1)],
    ...[depth, repairs, failed, unfinished].map(String),
  ];
}

function describe(row: Row): string {
  return HEAD.map((name, at) => `${name} ${cells(row)[at]}`).join(', ');
}

function quantile({ containerMs }: SwarmResult, part: number): number {
  return containerMs[Math.min(containerMs.length - 1, Math.floor(part * containerMs.length))] ?? Number.NaN;
}

function draw({ curves, streams }: Rows, directory: string): void {
  const names = [...new Set(curves.map(({ series }) => series))];
  const curvesOf = (y: (row: Row) => number) =>
    names.map((name, style) => ({
      ...{ name, style },
      points: curves.filter(({ series }) => series === name).map((row) => [row.hosts, y(row)] as const),
    }));
  const notes = [
    'Simulated: real topology and agent code, costs measured. Hosts of 4 cores and 10 Gbit/s; a proxy is one process on',
    'one core, with 25 Gbit/s; 0.1 ms between hosts. An image of 15 MB read at the start.',
  ];
  const x = { label: 'hosts that start ten containers each at the same moment', isLogarithmic: true };
  const charts = {
    'swarm-start': {
      ...{ title: 'Until 99 % of the containers have started', x, notes },
      y: { label: 'seconds', isLogarithmic: true },
      curves: curvesOf((row) => quantile(row.result, 0.99) / 1000),
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

/** Of the containers that were asked for, which part had started after so many seconds. */
function shares({ containerMs, failed, unfinished }: SwarmResult): [x: number, y: number][] {
  const all = containerMs.length + failed + unfinished;
  return Array.from({ length: 101 }, (_, percent) => {
    const at = Math.min(containerMs.length - 1, Math.floor((percent / 100) * containerMs.length));
    return [containerMs[at]! / 1000, (100 * (at + 1)) / all];
  });
}

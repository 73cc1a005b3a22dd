/**
 * A cluster of any size in a simulation: the real trees, roots' rules and agents' rules (src/p2p), with virtual time in
 * place of the clock, and links, processors and costs as they were measured by bench/mesh.ts.
 * Usage: node bench/mesh.ts --hosts 1,2,4,8,16,32 --json >MEASURED
 *        node bench/swarm.ts check MEASURED          predicted against measured
 *        node bench/swarm.ts run MEASURED [--hosts N] [--svg DIRECTORY] [--json]
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable, printJson } from '../src/cli/output.ts';
import { lineChart } from './swarm/chart.ts';
import type { Costs } from './swarm/costs.ts';
import { experiment, type Row } from './swarm/experiment.ts';
import { type MeshBench, measuredCosts, scenarioOf } from './swarm/measured.ts';
import { type SwarmResult, simulate } from './swarm/swarm.ts';

const HEAD = [
  'series',
  'hosts',
  'containers',
  'median s',
  'p99 s',
  'p99.9 s',
  'last s',
  'proxy sent MB',
  'depth',
  'repairs',
  'failed',
];

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    hosts: { type: 'string', default: '1,10,100,1000' },
    svg: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const [command, file] = positionals;
if (file === undefined) throw new Error('name the file that bench/mesh.ts --json made');
const bench = JSON.parse(readFileSync(file, 'utf8')) as MeshBench;
const costs = await withPeers(measuredCosts(bench));
process.stderr.write(`costs: ${JSON.stringify(costs)}\n`);
if (command === 'check') await check();
else if (command === 'run') await run();
else throw new Error('say "check" or "run"');

/** What asking a peer costs is what two hosts take longer than they should, for each step of the second one. */
async function withPeers(without: Costs): Promise<Costs> {
  const two = bench.rounds.find(({ mode, hosts }) => mode === 'mesh' && hosts === 2);
  if (two === undefined) throw new Error('the measured rounds lack one of two hosts in a mesh');
  const { lastMs } = await simulate(scenarioOf(bench, without, two));
  return { ...without, peerMs: Math.max(0, two.seconds.at(-1)! * 1000 - lastMs) / bench.trace.steps.length };
}

async function check(): Promise<void> {
  const rows: string[][] = [];
  for (const round of bench.rounds.filter(({ mode }) => mode !== 'pull')) {
    const result = await simulate(scenarioOf(bench, costs, round));
    const measured = round.seconds.at(-1)!;
    const predicted = result.lastMs / 1000;
    rows.push([
      ...[String(round.hosts), round.mode, measured.toFixed(2), predicted.toFixed(2)],
      `${((predicted / measured - 1) * 100).toFixed(0)} %`,
      ...[(round.proxySentBytes / 1e6).toFixed(1), (result.proxyBytes / 1e6).toFixed(1)],
    ]);
  }
  const head = [
    'hosts',
    'mode',
    'last, measured s',
    'predicted s',
    'off by',
    'proxy sent, measured MB',
    'predicted MB',
  ];
  console.log(formatTable(head, rows));
}

async function run(): Promise<void> {
  const rows = await experiment(bench.trace, costs, flags.hosts.split(',').map(Number), (row) => {
    process.stderr.write(`${describe(row)}\n`);
  });
  if (flags.svg !== undefined) draw(rows, flags.svg);
  if (flags.json) printJson(rows);
  else console.log(formatTable(HEAD, rows.map(cells)));
}

function cells({ series, hosts, containers, result }: Row): string[] {
  const seconds = (part: number) => (quantile(result, part) / 1000).toFixed(2);
  return [
    ...[series, String(hosts), String(containers), seconds(0.5), seconds(0.99), seconds(0.999)],
    ...[(result.lastMs / 1000).toFixed(2), (result.proxyBytes / 1e6).toFixed(0)],
    ...[String(result.depth), String(result.repairs), String(result.unfinished)],
  ];
}

function describe(row: Row): string {
  return HEAD.map((name, at) => `${name} ${cells(row)[at]}`).join(', ');
}

function quantile({ containerMs }: SwarmResult, part: number): number {
  return containerMs[Math.min(containerMs.length - 1, Math.floor(part * containerMs.length))] ?? Number.NaN;
}

function draw(rows: readonly Row[], directory: string): void {
  const curvesOf = (y: (row: Row) => number) =>
    [...new Set(rows.map(({ series }) => series))].map((name) => ({
      name,
      points: rows.filter(({ series }) => series === name).map((row) => [row.hosts, y(row)] as const),
    }));
  const notes = [
    `Simulated: real topology and agent code, costs measured (${costs.receiveMs.toFixed(1)} ms a chunk received, ${costs.sendMs.toFixed(1)} ms sent).`,
    'Hosts of 4 cores and 10 Gbit/s, 10 containers each; a proxy of 25 Gbit/s and 16 cores; 0.1 ms between hosts.',
  ];
  const x = { label: 'hosts that start at the same moment', isLogarithmic: true };
  const charts = {
    'swarm-start': {
      ...{ title: 'Until 99 % of the containers have started', x, notes },
      y: { label: 'seconds', isLogarithmic: true },
      curves: curvesOf((row) => quantile(row.result, 0.99) / 1000),
    },
    'swarm-egress': {
      ...{ title: 'What the proxy sends', x, notes },
      y: { label: 'MB', isLogarithmic: true },
      curves: curvesOf((row) => Math.max(0.1, row.result.proxyBytes / 1e6)),
    },
  };
  for (const [name, chart] of Object.entries(charts)) {
    writeFileSync(join(directory, `${name}.svg`), lineChart(chart));
  }
}

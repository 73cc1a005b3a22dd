/** DADI's experiment, and what changes its outcome: many hosts that start the same image at the same moment. */
import type { Costs } from './costs.ts';
import { type Scenario, type SwarmResult, simulate, type Trace } from './swarm.ts';

export interface Row {
  readonly series: string;
  readonly hosts: number;
  readonly containers: number;
  readonly result: SwarmResult;
}

const GIGABIT = 125_000_000;
const CONTAINERS = 10;

interface Series {
  readonly name: string;
  readonly change: (base: Scenario) => Scenario;
  /** Of hosts; beyond that it tells nothing new, or takes hours. */
  readonly most: number;
}

const MESH = {
  roots: 1,
  settings: { tops: 1, maxFanOut: 4, bytesPerSecondPerChild: 12_500_000, heartbeatMs: 5_000 },
};
const fanOut = (maxFanOut: number) => ({ ...MESH, settings: { ...MESH.settings, maxFanOut } });

const SERIES: readonly Series[] = [
  { name: 'warm', change: (base) => ({ ...base, isWarm: true }), most: 10_000 },
  { name: 'mesh', change: (base) => ({ ...base, mesh: MESH }), most: 10_000 },
  { name: 'no mesh', change: (base) => base, most: 10_000 },
  { name: 'mesh, 3 roots', change: (base) => ({ ...base, mesh: { ...MESH, roots: 3 } }), most: 1_000 },
  { name: 'mesh, fan-out 2', change: (base) => ({ ...base, mesh: fanOut(2) }), most: 1_000 },
  { name: 'mesh, fan-out 8', change: (base) => ({ ...base, mesh: fanOut(8) }), most: 1_000 },
  { name: 'mesh, 5 % fail', change: (base) => ({ ...base, mesh: MESH, failingPart: 0.05 }), most: 1_000 },
];

export async function experiment(
  trace: Trace,
  costs: Costs,
  counts: readonly number[],
  onRow: (row: Row) => void,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (const hosts of counts) {
    const base: Scenario = {
      ...{ hosts, trace, costs: { ...costs, latencyMs: 0.1 }, containersPerHost: CONTAINERS },
      ...{ arrivalMs: 0, isWarm: false, failingPart: 0, mesh: null },
      ...{ hostBytesPerSecond: 10 * GIGABIT, proxyBytesPerSecond: 25 * GIGABIT, proxyCores: 16 },
      ...{ coresPerHost: 4, sharedCores: 1 },
    };
    for (const { name, change, most } of SERIES) {
      if (hosts > most) continue;
      const result = await simulate(change(base));
      const row = { series: name, hosts, containers: hosts * CONTAINERS, result };
      rows.push(row);
      onRow(row);
    }
  }
  return rows;
}

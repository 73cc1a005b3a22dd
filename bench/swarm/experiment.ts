/** DADI's experiments, and what changes their outcomes: many hosts that start containers of the same image. */
import type { Costs } from './costs.ts';
import { type Scenario, type SwarmResult, simulate } from './swarm.ts';
import { lengthened, type Trace } from './trace.ts';

export interface Row {
  readonly series: string;
  readonly hosts: number;
  readonly containers: number;
  readonly result: SwarmResult;
}

const GIGABIT = 125_000_000;
/** Of an image of 894 MB, as DADI's authors had it: 15 MB are read at the start. */
const READ_BYTES = 15_000_000;
const LATENCY_MS = 0.1;

/** As they come by default. */
const MESH = {
  roots: 1,
  settings: { tops: 1, maxFanOut: 4, bytesPerSecondPerChild: 12_500_000, heartbeatMs: 5_000 },
};
const fanOut = (maxFanOut: number) => ({ ...MESH, settings: { ...MESH.settings, maxFanOut } });

type Change = (base: Scenario) => Scenario;
const warm: Change = (base) => ({ ...base, isWarm: true });
const mesh: Change = (base) => ({ ...base, mesh: MESH });
const plain: Change = (base) => base;

/** By the number of hosts. */
const CURVES: Readonly<Record<string, Change>> = {
  warm,
  mesh,
  'no mesh': plain,
  'no mesh, 16 proxies': (base) => ({ ...base, proxies: 16 }),
};
/** What changes with other settings, at one number of hosts. */
const VARIANTS: Readonly<Record<string, Change>> = {
  'mesh, 3 proxies and roots': (base) => ({ ...base, proxies: 3, mesh: { ...MESH, roots: 3 } }),
  'mesh, fan-out 2': (base) => ({ ...base, mesh: fanOut(2) }),
  'mesh, fan-out 8': (base) => ({ ...base, mesh: fanOut(8) }),
  'mesh, 5 % of hosts fail': (base) => ({ ...base, mesh: MESH, failingPart: 0.05 }),
};
/** So many containers of each host within ten seconds. */
const STREAM = { containersPerHost: 60, arrivalMs: 10_000 };
const STREAMS: Readonly<Record<string, Change>> = { warm, mesh, 'no mesh': plain };

export interface ExperimentOptions {
  readonly trace: Trace;
  readonly costs: Costs;
  /** Of the curves. */
  readonly hosts: readonly number[];
  /** Of all else. */
  readonly variantHosts: number;
  readonly onRow: (row: Row) => void;
}

export interface Rows {
  /** Ten containers on each host, all at the same moment. */
  readonly curves: readonly Row[];
  readonly variants: readonly Row[];
  /** Sixty on each, within ten seconds. */
  readonly streams: readonly Row[];
}

export async function experiment(options: ExperimentOptions): Promise<Rows> {
  const { hosts, variantHosts } = options;
  const curves: Row[] = [];
  for (const count of hosts) curves.push(...(await rowsOf(CURVES, count, {}, options)));
  return {
    curves,
    variants: await rowsOf(VARIANTS, variantHosts, {}, options),
    streams: await rowsOf(STREAMS, variantHosts, STREAM, options),
  };
}

async function rowsOf(
  series: Readonly<Record<string, Change>>,
  hosts: number,
  more: Partial<Scenario>,
  { trace, costs, onRow }: ExperimentOptions,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (const [name, change] of Object.entries(series)) {
    const scenario = change({ ...baseOf(hosts, trace, costs), ...more });
    const containers = hosts * scenario.containersPerHost;
    const row = { series: name, hosts, containers, result: await simulate(scenario) };
    rows.push(row);
    onRow(row);
  }
  return rows;
}

function baseOf(hosts: number, trace: Trace, costs: Costs): Scenario {
  return {
    ...{ hosts, containersPerHost: 10, arrivalMs: 0, isWarm: false, failingPart: 0, mesh: null },
    trace: lengthened(trace, Math.round(READ_BYTES / costs.chunkBytes)),
    costs: { ...costs, latencyMs: LATENCY_MS },
    hostBytesPerSecond: 10 * GIGABIT,
    ...{ proxies: 1, proxyBytesPerSecond: 25 * GIGABIT, coresPerHost: 4, sharedCores: 1 },
  };
}

/** DADI's experiments, and what changes their outcomes: many hosts that start containers of the same image. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import pLimit from 'p-limit';
import type { Costs } from './costs.ts';
import type { Scenario, SwarmResult } from './swarm.ts';
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
/** Of each thread: 10,000 hosts take some gigabytes. */
const MAX_HEAP_MB = 10_000;
const YOUNG_HEAP_MB = 192;

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

/** A proxy is one process: more of them are what helps it, and each is a root, too. */
const PROXIES = 16;

/** By the number of hosts. */
const CURVES: Readonly<Record<string, Change>> = {
  warm,
  mesh,
  'mesh, 16 proxies': (base) => ({ ...base, proxies: PROXIES, mesh: { ...MESH, roots: PROXIES } }),
  'no mesh': plain,
  'no mesh, 16 proxies': (base) => ({ ...base, proxies: PROXIES }),
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

export interface ExperimentOptions {
  readonly trace: Trace;
  readonly costs: Costs;
  /** Of the curves. */
  readonly hosts: readonly number[];
  /** Of all else. */
  readonly variantHosts: number;
  /** Scenarios at the same time. */
  readonly threads: number;
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
  const { trace, costs, hosts, variantHosts, threads, onRow } = options;
  const limit = pLimit(threads);
  const rowsOf = (series: Readonly<Record<string, Change>>, count: number, more: Partial<Scenario> = {}) =>
    Object.entries(series).map(([name, change]) =>
      limit(async (): Promise<Row> => {
        const scenario = change({ ...baseOf(count, trace, costs), ...more });
        const containers = count * scenario.containersPerHost;
        const row = { series: name, hosts: count, containers, result: await inThread(scenario) };
        onRow(row);
        return row;
      }),
    );
  // The largest ones first: they take longest.
  const curves = hosts.toSorted((a, b) => b - a).flatMap((count) => rowsOf(CURVES, count));
  const variants = rowsOf(VARIANTS, variantHosts);
  const streams = rowsOf(CURVES, variantHosts, STREAM);
  return {
    curves: (await Promise.all(curves)).toSorted((a, b) => a.hosts - b.hosts),
    variants: await Promise.all(variants),
    streams: await Promise.all(streams),
  };
}

async function inThread(scenario: Scenario): Promise<SwarmResult> {
  const worker = new Worker(new URL('./worker.ts', import.meta.url), {
    workerData: scenario,
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MB, maxYoungGenerationSizeMb: YOUNG_HEAP_MB },
  });
  const [result] = (await once(worker, 'message')) as [SwarmResult];
  return result;
}

function baseOf(hosts: number, trace: Trace, costs: Costs): Scenario {
  return {
    ...{ hosts, containersPerHost: 10, arrivalMs: 0, isWarm: false, failingPart: 0, mesh: null },
    trace: lengthened(trace, Math.round(READ_BYTES / costs.chunkBytes)),
    costs: { ...costs, latencyMs: LATENCY_MS },
    hostBytesPerSecond: 10 * GIGABIT,
    ...{ proxies: 1, proxyBytesPerSecond: 25 * GIGABIT, coresPerHost: 4, shared: { cores: 1, parallel: 1 } },
  };
}

/** From what the mesh bench has measured to what a simulation needs. */

import { bytesPerSecond } from '../link-rate.ts';
import type { Costs } from './costs.ts';
import type { Scenario, Trace } from './swarm.ts';

/** What `bench/mesh.ts --json` prints, as far as it is needed. */
export interface MeshBench {
  readonly rate: string;
  readonly proxyRate: string;
  readonly cores: number;
  readonly trace: Trace;
  readonly rounds: readonly MeasuredRound[];
}

interface MeasuredRound {
  readonly mode: 'mesh' | 'proxy' | 'pull';
  readonly hosts: number;
  readonly seconds: readonly number[];
  readonly proxySentBytes: number;
  readonly receivedBytesPerHost: number;
  readonly cpuMs: number;
}

/** Measured apart (two agents in one process, TLS, digests): processor time of both ends for a chunk, half each. */
const TRANSFER_MS = 1.7;
/** Measured apart: a join of five contents at the real root with its signatures, and its HTTP request. */
const JOIN_MS = 0.8;
const LATENCY_MS = 0.2;
const HEARTBEAT_MS = 5_000;

/**
 * The processor time of a start is what rounds without the mesh took, less what their chunks cost; what of it a start waits
 * for is what a host alone takes longer than its bytes need on its link.
 */
export function measuredCosts({ rounds, trace, rate }: MeshBench): Costs {
  const plain = rounds.filter(({ mode }) => mode === 'proxy');
  const hosts = plain.reduce((sum, round) => sum + round.hosts, 0);
  const cpuMs = plain.reduce((sum, round) => sum + round.cpuMs, 0);
  const chunks = trace.steps.flat().reduce((sum, { count }) => sum + count, 0);
  const alone = plain.find((round) => round.hosts === 1);
  if (alone === undefined) throw new Error('the measured rounds lack one of a host alone, without the mesh');
  const allMs = cpuMs / hosts - chunks * TRANSFER_MS;
  const sendingMs = (alone.receivedBytesPerHost / bytesPerSecond(rate)) * 1000;
  const startMs = Math.min(allMs, Math.max(0, alone.seconds[0]! * 1000 - sendingMs - chunks * TRANSFER_MS));
  return {
    startMs,
    besideMs: allMs - startMs,
    peerMs: 0,
    receiveMs: TRANSFER_MS / 2,
    sendMs: TRANSFER_MS / 2,
    proxySendMs: TRANSFER_MS / 2,
    joinMs: JOIN_MS,
    latencyMs: LATENCY_MS,
    chunkBytes: alone.receivedBytesPerHost / chunks,
  };
}

/** The same round in a simulation: all hosts share the processors of one machine. */
export function scenarioOf(bench: MeshBench, costs: Costs, { mode, hosts }: MeasuredRound): Scenario {
  const hostBytesPerSecond = bytesPerSecond(bench.rate);
  const settings = {
    ...{ tops: 1, maxFanOut: 4, heartbeatMs: HEARTBEAT_MS },
    bytesPerSecondPerChild: hostBytesPerSecond / 2,
  };
  return {
    ...{ hosts, costs, hostBytesPerSecond, trace: bench.trace },
    ...{ containersPerHost: 1, arrivalMs: 0, isWarm: false, failingPart: 0 },
    proxyBytesPerSecond: bytesPerSecond(bench.proxyRate),
    ...{ proxyCores: 1, coresPerHost: null, sharedCores: bench.cores },
    mesh: mode === 'mesh' ? { roots: 1, settings } : null,
  };
}

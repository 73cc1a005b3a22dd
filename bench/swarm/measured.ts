/** From what the benches have measured to what a simulation needs. */

import { bytesPerSecond } from '../link-rate.ts';
import type { Costs, PullCosts } from './costs.ts';
import type { Scenario } from './swarm.ts';
import { chunksOf, type Trace } from './trace.ts';

/** Of a host's start of containers. */
export interface MeasuredStart {
  /** Until the last of them has ended. */
  readonly wallMs: number;
  /** Processor time of the host's daemon, and of the helpers that it has started. */
  readonly daemonMs: number;
  /** Of the programs, and of mounting what they run on. */
  readonly programMs: number;
  readonly proxyMs: number;
  /** Of the daemon of the other host. */
  readonly otherMs: number;
  /** Of all programs, and the kernel: right only on a machine that has nothing else to do. */
  readonly machineMs: number;
  readonly receivedBytes: number;
}

/** What `bench/mesh-costs.ts --json` prints, as far as it is needed. */
export interface MeasuredCosts {
  readonly trace: Trace;
  readonly rate: string;
  /** Processor time of a host in service that starts alone: before each of the steps, and after the last one. */
  readonly hostSteps: readonly { readonly daemonMs: number; readonly helperMs: number }[];
  /** The first container of a host alone, all from the proxy. */
  readonly first: MeasuredStart;
  /** One more on the same host. */
  readonly next: MeasuredStart;
  /** The first container of another host, all chunks from the first one. */
  readonly fromPeer: MeasuredStart;
  readonly steady: MeasuredSteady;
  /** Work that all processors do together in the time in which one alone does 1. */
  readonly parallel: number;
}

/** Of programs that have long run. Processor time. */
export interface MeasuredSteady {
  /** Of the proxy for all that a host asks of it besides chunks, and how many requests that is. */
  readonly pull: PullCosts;
  /** The same of a host in the mesh, which gets some of it from others. */
  readonly meshPull: PullCosts;
  /** Of the proxy for a chunk. */
  readonly proxySendMs: number;
  /** Of a host's daemon that sends a chunk, and of who receives and checks it. */
  readonly sendMs: number;
  readonly receiveMs: number;
  /** From the request for a chunk until it is there, at best. */
  readonly requestMs: number;
  readonly joinCallMs: number;
  readonly joinContentMs: number;
  readonly heartbeatMs: number;
}

/** What `bench/mesh.ts --json` prints, as far as it is needed. */
export interface MeshBench {
  readonly rate: string;
  readonly proxyRate: string;
  readonly cores: number;
  readonly trace: Trace;
  readonly rounds: readonly MeasuredRound[];
}

export interface MeasuredRound {
  readonly mode: 'mesh' | 'proxy' | 'pull';
  readonly hosts: number;
  readonly seconds: readonly number[];
  readonly proxySentBytes: number;
}

const LATENCY_MS = 0.2;
const HEARTBEAT_MS = 5_000;

/**
 * All that a first container costs more than another one, but for its chunks, is done once a host. What its start waits for is
 * what a host alone takes longer: before the first chunk it waits for everything, afterwards for a part. When in the start
 * it is done, and by whom, is taken from a start that was watched. Daemons are those of the measurement, that have not run
 * long: that goes for hosts' part of an image, and if `isFresh` for what they send to each other, too.
 */
export function measuredCosts(
  { trace, hostSteps, rate, first, next, fromPeer, steady }: MeasuredCosts,
  { isFresh }: { readonly isFresh: boolean },
): Costs {
  const chunks = chunksOf(trace);
  const wireMs = (bytes: number) => (bytes / bytesPerSecond(rate)) * 1000;
  const chunkBytes = first.receivedBytes / chunks;
  const freshMs = fromPeer.otherMs / chunks;
  const [sendMs, receiveMs] = isFresh ? [freshMs, freshMs] : [steady.sendMs, steady.receiveMs];
  const { proxySendMs } = steady;
  const allMs = Math.max(0, first.daemonMs - next.daemonMs - chunks * receiveMs);
  const waitedMs = Math.max(
    0,
    first.wallMs - next.wallMs - wireMs(first.receivedBytes) - chunks * (proxySendMs + receiveMs),
  );
  // Chunks are received in between: what is watched has them in it.
  const part = allMs / hostSteps.reduce((sum, { daemonMs, helperMs }) => sum + daemonMs + helperMs, 0);
  const beforeMs = part * (hostSteps[0]!.daemonMs + hostSteps[0]!.helperMs);
  const waitedOf = (step: number) =>
    clamp(step === 0 ? waitedMs / beforeMs : (waitedMs - beforeMs) / (allMs - beforeMs));
  return {
    hostSteps: hostSteps.map(({ daemonMs, helperMs }, step) => {
      const waited = waitedOf(step);
      return {
        ...{ daemonMs: daemonMs * part * waited, helperMs: helperMs * part * waited },
        besideMs: (daemonMs + helperMs) * part * (1 - waited),
      };
    }),
    ...{ containerDaemonMs: next.daemonMs, containerMs: next.programMs },
    aroundMs: Math.max(0, first.machineMs - first.daemonMs - first.programMs - first.proxyMs),
    ...{ receiveMs, sendMs, proxySendMs, chunkBytes },
    peerMs: Math.max(0, steady.requestMs - steady.sendMs - steady.receiveMs - wireMs(chunkBytes)),
    ...{ pull: steady.pull, meshPull: steady.meshPull },
    ...{ joinMs: steady.joinCallMs, joinContentMs: steady.joinContentMs, heartbeatMs: steady.heartbeatMs },
    latencyMs: LATENCY_MS,
  };
}

function clamp(part: number): number {
  return Math.min(1, Math.max(0, part));
}

/** The same round in a simulation: all hosts, and the proxy, share the processors of one machine. */
export function scenarioOf(
  bench: MeshBench,
  costs: Costs,
  { mode, hosts }: MeasuredRound,
  parallel: number,
): Scenario {
  const hostBytesPerSecond = bytesPerSecond(bench.rate);
  const settings = {
    ...{ tops: 1, maxFanOut: 4, heartbeatMs: HEARTBEAT_MS },
    bytesPerSecondPerChild: hostBytesPerSecond / 2,
  };
  return {
    ...{ hosts, costs, hostBytesPerSecond, trace: bench.trace },
    ...{ containersPerHost: 1, arrivalMs: 0, isWarm: false, failingPart: 0 },
    ...{ proxies: 1, proxyBytesPerSecond: bytesPerSecond(bench.proxyRate) },
    ...{ coresPerHost: null, shared: { cores: bench.cores, parallel } },
    mesh: mode === 'mesh' ? { roots: 1, settings } : null,
  };
}

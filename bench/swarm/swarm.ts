/** One run of the simulation: hosts that start the same image. */
import { createHash } from 'node:crypto';
import { RootKey } from '../../src/p2p/root/root-key.ts';
import type { TreeSettings } from '../../src/p2p/root/root-limits.ts';
import type { Costs } from './costs.ts';
import { Cpu } from './cpu.ts';
import { Link, send } from './links.ts';
import { type SimContent, simContent } from './sim-content.ts';
import { SimHost } from './sim-host.ts';
import { SimPeers } from './sim-peers.ts';
import { SimRoots } from './sim-roots.ts';
import { VirtualTime } from './virtual-time.ts';

/** What a container reads while it starts: one step after the other, all runs of a step at the same time. */
export interface Trace {
  /** Chunks of each of the image's blobs. */
  readonly blobChunks: readonly number[];
  readonly steps: readonly (readonly {
    readonly blob: number;
    readonly first: number;
    readonly count: number;
  }[])[];
}

export interface Scenario {
  readonly hosts: number;
  readonly containersPerHost: number;
  /** All hosts begin within so long, evenly. */
  readonly arrivalMs: number;
  readonly trace: Trace;
  readonly costs: Costs;
  readonly hostBytesPerSecond: number;
  readonly proxyBytesPerSecond: number;
  readonly proxyCores: number;
  /** Of each host; null: all hosts share so many as `sharedCores` says, as they do on one machine. */
  readonly coresPerHost: number | null;
  readonly sharedCores: number;
  /** Null: without the mesh. */
  readonly mesh: { readonly roots: number; readonly settings: TreeSettings } | null;
  /** All that is read is on the hosts already. */
  readonly isWarm: boolean;
  /** So many of the hosts fail at a moment of the run, each at another one. */
  readonly failingPart: number;
}

export interface SwarmResult {
  /** Of containers, from their host's beginning to their end. Sorted. */
  readonly containerMs: readonly number[];
  /** From the first beginning to the last container's end. */
  readonly lastMs: number;
  readonly proxyBytes: number;
  readonly depth: number;
  readonly repairs: number;
  readonly unfinished: number;
}

/** Nobody waits longer than this for a container. */
const PATIENCE_MS = 600_000;
const key = RootKey.generate();

export async function simulate(scenario: Scenario): Promise<SwarmResult> {
  const { costs, trace, mesh } = scenario;
  const time = new VirtualTime();
  const shared = new Cpu(time, scenario.sharedCores);
  const contents = trace.blobChunks.map((chunks, at) => simContent(`blob ${at}`, chunks));
  const byTable = new Map(contents.map((content) => [content.table as string, content]));
  const hosts = new Map<string, SimHost>();
  const roots = mesh && new SimRoots({ count: mesh.roots, settings: mesh.settings, key, time, costs });
  const proxy = { up: new Link(scenario.proxyBytesPerSecond), cpu: new Cpu(time, scenario.proxyCores) };
  const origin = {
    chunk: async (host: SimHost) => {
      await time.sleep(costs.latencyMs);
      await proxy.cpu.work(costs.proxySendMs);
      await new Promise<void>((arrived) =>
        send(time, { from: proxy.up, to: host.down, latencyMs: costs.latencyMs }, costs.chunkBytes, arrived),
      );
    },
  };
  for (let at = 0; at < scenario.hosts; at++) {
    const id = createHash('sha256').update(`host ${at}`).digest('hex').slice(0, 32);
    const host: SimHost = new SimHost({
      member: {
        id,
        address: `host-${at}.example:6011`,
        zone: '',
        uploadBytesPerSecond: scenario.hostBytesPerSecond,
      },
      ...{ bytesPerSecond: scenario.hostBytesPerSecond, time, costs, origin },
      cpu: scenario.coresPerHost === null ? shared : new Cpu(time, scenario.coresPerHost),
      mesh: roots && { peers: new SimPeers(hosts, byTable, () => host), roots, rootUrls: roots.urls },
    });
    hosts.set(id, host);
  }
  const containerMs: number[] = [];
  let open = 0;
  let lastMs = 0;
  const all = [...hosts.values()];
  const failing = pickEvenly(all, Math.round(scenario.failingPart * all.length));
  for (const [at, host] of all.entries()) {
    const startsMs = (scenario.arrivalMs * at) / all.length;
    open += scenario.containersPerHost;
    time.after(startsMs, () => {
      host.open(contents);
      for (let container = 0; container < scenario.containersPerHost; container++) {
        void runContainer(host, contents, scenario).then((isDone) => {
          open--;
          if (!isDone) return;
          containerMs.push(time.now() - startsMs);
          lastMs = time.now();
        });
      }
    });
  }
  for (const [at, host] of failing.entries()) {
    // Within the time that a run takes that goes well.
    time.after(scenario.arrivalMs + (2_000 * (at + 1)) / failing.length, () => host.fail());
  }
  await time.run(() => open === 0, PATIENCE_MS);
  return {
    containerMs: containerMs.toSorted((a, b) => a - b),
    lastMs,
    proxyBytes: proxy.up.bytes,
    depth: roots?.depth ?? 0,
    repairs: roots?.repairs ?? 0,
    unfinished: scenario.hosts * scenario.containersPerHost - containerMs.length,
  };
}

/** Resolves to whether its host lived until it had started. */
async function runContainer(
  host: SimHost,
  contents: readonly SimContent[],
  scenario: Scenario,
): Promise<boolean> {
  const { trace, costs, isWarm } = scenario;
  const steps = Math.max(1, trace.steps.length);
  for (const step of trace.steps) {
    if (!isWarm) {
      const gets = step.map(({ blob, first, count }) => host.get({ content: contents[blob]!, first, count }));
      try {
        await Promise.all(gets);
      } catch {
        return false;
      }
    }
    void host.parts.cpu.work(costs.besideMs / steps);
    await host.parts.cpu.work(costs.startMs / steps);
    if (!host.isAlive) return false;
  }
  return true;
}

function pickEvenly<T>(all: readonly T[], count: number): T[] {
  return Array.from({ length: count }, (_, at) => all[Math.floor(((at + 0.5) * all.length) / count)]!);
}

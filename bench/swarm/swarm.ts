/** One run of the simulation: hosts that start containers of the same image. */
import { createHash } from 'node:crypto';
import { RootKey } from '../../src/p2p/root/root-key.ts';
import type { TreeSettings } from '../../src/p2p/root/root-limits.ts';
import type { Costs, PullCosts } from './costs.ts';
import { Link, send } from './links.ts';
import { Processors, Thread } from './processors.ts';
import { type SimContent, simContent } from './sim-content.ts';
import { type Origin, SimHost } from './sim-host.ts';
import { SimPeers } from './sim-peers.ts';
import { SimRoots } from './sim-roots.ts';
import type { Trace } from './trace.ts';
import { VirtualTime } from './virtual-time.ts';

export type { Trace } from './trace.ts';

export interface Scenario {
  readonly hosts: number;
  readonly containersPerHost: number;
  /** All containers begin within so long, evenly, each on the next host. */
  readonly arrivalMs: number;
  readonly trace: Trace;
  readonly costs: Costs;
  readonly hostBytesPerSecond: number;
  /** Each a process that does one thing at a time, with a link of its own. Hosts are shared out among them evenly. */
  readonly proxies: number;
  readonly proxyBytesPerSecond: number;
  /** Of each host; null: all hosts and proxies share those of one machine. */
  readonly coresPerHost: number | null;
  /** `parallel`: work that all do in the time in which one alone does 1. */
  readonly shared: { readonly cores: number; readonly parallel: number };
  /** Null: without the mesh. The first proxies are the roots. */
  readonly mesh: { readonly roots: number; readonly settings: TreeSettings } | null;
  /** All that is read is on the hosts already, and mounted. */
  readonly isWarm: boolean;
  /** So many of the hosts fail at a moment of the run, each at another one. */
  readonly failingPart: number;
}

export interface SwarmResult {
  /** Of each container that has started, from when it was asked for. Sorted. */
  readonly containerMs: readonly number[];
  /** From the first one's beginning to the last one's end. */
  readonly lastMs: number;
  readonly proxyBytes: number;
  /** What the busiest proxy has worked. */
  readonly proxyBusyMs: number;
  readonly depth: number;
  readonly repairs: number;
  /** On hosts that failed. */
  readonly failed: number;
  /** On hosts that did not. */
  readonly unfinished: number;
  /** Of the simulation. */
  readonly events: number;
}

interface SimProxy {
  readonly up: Link;
  readonly thread: Thread;
  readonly processors: Processors;
}

/** Nobody waits longer than this for a container. */
export const PATIENCE_MS = 600_000;
/** When hosts fail: within the time that a run takes that goes well. */
const FAILURES_MS = 2_000;
const key = RootKey.generate();

/** The same scenario gives the same result. */
export async function simulate(scenario: Scenario): Promise<SwarmResult> {
  const { trace, containersPerHost, arrivalMs, failingPart } = scenario;
  const time = new VirtualTime();
  const contents = trace.blobChunks.map((chunks, at) => simContent(`blob ${at}`, chunks));
  const { hosts, proxies, roots } = cluster(scenario, time, contents);
  const starts = hosts.map((host) => new ImageStart(host, contents, scenario));
  const containerMs: number[] = [];
  const containers = hosts.length * containersPerHost;
  let open = containers;
  let failed = 0;
  let lastMs = 0;
  for (let at = 0; at < containers; at++) {
    const startMs = (arrivalMs * at) / containers;
    time.after(startMs, () => {
      void starts[at % hosts.length]!.container().then((isStarted) => {
        open--;
        if (!isStarted) failed++;
        else {
          containerMs.push(time.now() - startMs);
          lastMs = time.now();
        }
      });
    });
  }
  const failing = pickEvenly(hosts, Math.round(failingPart * hosts.length));
  for (const [at, host] of failing.entries()) {
    time.after((FAILURES_MS * (at + 1)) / failing.length, () => host.fail());
  }
  await time.run(() => open === 0, PATIENCE_MS);
  return {
    containerMs: containerMs.toSorted((a, b) => a - b),
    lastMs,
    proxyBytes: proxies.reduce((sum, { up }) => sum + up.bytes, 0),
    proxyBusyMs: Math.max(...proxies.map(({ processors }) => processors.usedMs)),
    depth: roots?.depth ?? 0,
    repairs: roots?.repairs ?? 0,
    ...{ failed, unfinished: open, events: time.events },
  };
}

function cluster(scenario: Scenario, time: VirtualTime, contents: readonly SimContent[]) {
  const { costs, mesh, coresPerHost, hostBytesPerSecond: bytesPerSecond } = scenario;
  const shared = new Processors(time, scenario.shared.cores, scenario.shared.parallel);
  const proxies: SimProxy[] = Array.from({ length: scenario.proxies }, () => {
    const processors = coresPerHost === null ? shared : new Processors(time, 1);
    return { up: new Link(scenario.proxyBytesPerSecond), processors, thread: new Thread(processors) };
  });
  const threads = proxies.slice(0, mesh?.roots ?? 0).map(({ thread }) => thread);
  const { settings } = mesh ?? {};
  const roots = settings === undefined ? null : new SimRoots({ threads, settings, key, time, costs });
  const byTable = new Map(contents.map((content) => [content.table as string, content]));
  const byId = new Map<string, SimHost>();
  const hosts = Array.from({ length: scenario.hosts }, (_, at) => {
    const id = createHash('sha256').update(`host ${at}`).digest('hex').slice(0, 32);
    const address = `host-${at}.example:6011`;
    const host: SimHost = new SimHost({
      member: { id, address, zone: '', uploadBytesPerSecond: bytesPerSecond },
      ...{ bytesPerSecond, time, costs },
      origin: originOf(
        proxies[at % proxies.length]!,
        time,
        costs,
        roots === null ? costs.pull : costs.meshPull,
      ),
      processors: coresPerHost === null ? shared : new Processors(time, coresPerHost),
      mesh: roots && { peers: new SimPeers(byId, byTable, () => host), roots, rootUrls: roots.urls },
    });
    byId.set(id, host);
    return host;
  });
  return { hosts, proxies, roots };
}

function originOf({ up, thread }: SimProxy, time: VirtualTime, costs: Costs, pull: PullCosts): Origin {
  const { latencyMs, chunkBytes } = costs;
  return {
    pull: async () => {
      for (let request = 0; request < pull.requests; request++) {
        await time.sleep(latencyMs);
        await thread.work(pull.ms / pull.requests);
        await time.sleep(latencyMs);
      }
    },
    chunk: async (host) => {
      await time.sleep(latencyMs);
      await thread.work(costs.proxySendMs);
      await new Promise<void>((arrived) =>
        send(time, { from: up, to: host.down, latencyMs }, chunkBytes, arrived),
      );
    },
  };
}

/** The start of one image's containers on one host. */
class ImageStart {
  readonly #host: SimHost;
  readonly #contents: readonly SimContent[];
  readonly #scenario: Scenario;
  readonly #helpers: Thread;
  /** The kernel's, and others that nobody waits for. */
  readonly #beside: Thread;
  readonly #around: Thread;
  #pulled: Promise<void> | null = null;
  readonly #steps: (Promise<void> | undefined)[] = [];

  constructor(host: SimHost, contents: readonly SimContent[], scenario: Scenario) {
    this.#host = host;
    this.#contents = contents;
    this.#scenario = scenario;
    this.#helpers = new Thread(host.parts.processors);
    this.#beside = new Thread(host.parts.processors);
    this.#around = new Thread(host.parts.processors);
  }

  /** Resolves to whether the host lived until the container had started. */
  async container(): Promise<boolean> {
    const { costs, trace, isWarm } = this.#scenario;
    const host = this.#host;
    const program = new Thread(host.parts.processors);
    try {
      if (!isWarm) {
        this.#pulled ??= host.open(this.#contents);
        await this.#pulled;
      }
      await host.daemon.work(costs.containerDaemonMs);
      if (isWarm) await program.work(costs.containerMs);
      else {
        for (let step = 0; step <= trace.steps.length; step++) {
          // What the host does for the first container that comes so far, the others have from it.
          this.#steps[step] ??= this.#read(step);
          await this.#steps[step];
          await program.work(costs.containerMs / (trace.steps.length + 1));
          if (!host.isAlive) return false;
        }
      }
    } catch (error) {
      if (host.isAlive) throw error;
    }
    return host.isAlive;
  }

  async #read(step: number): Promise<void> {
    const host = this.#host;
    const { steps } = this.#scenario.trace;
    const { hostSteps } = this.#scenario.costs;
    // A lengthened start has more steps, in which the host does nothing new.
    const own = step === steps.length ? hostSteps.at(-1) : hostSteps.slice(0, -1)[step];
    void this.#beside.work(own?.besideMs ?? 0);
    if (this.#scenario.coresPerHost === null) {
      void this.#around.work(this.#scenario.costs.aroundMs / (steps.length + 1));
    }
    await host.daemon.work(own?.daemonMs ?? 0);
    await this.#helpers.work(own?.helperMs ?? 0);
    host.died.throwIfAborted();
    const runs = steps[step] ?? [];
    await Promise.all(
      runs.map(({ blob, first, count }) => host.get({ content: this.#contents[blob]!, first, count })),
    );
  }
}

function pickEvenly<T>(all: readonly T[], count: number): T[] {
  return Array.from({ length: count }, (_, at) => all[Math.floor(((at + 0.5) * all.length) / count)]!);
}

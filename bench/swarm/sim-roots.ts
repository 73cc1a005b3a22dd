/** The roots of a simulation: the real ones, in proxies, whose one thread they share with all else that these do. */
import { unlessAborted } from '../../src/format/unless-aborted.ts';
import type { Where } from '../../src/p2p/agent/mesh.ts';
import { RootError, type RootTransport } from '../../src/p2p/agent/root-transport.ts';
import type {
  Heartbeat,
  HeartbeatAnswer,
  JoinAnswer,
  JoinRequest,
  Leave,
  Lost,
  Place,
  RootKeys,
} from '../../src/p2p/mesh-protocol.ts';
import { MeshRoot } from '../../src/p2p/root/mesh-root.ts';
import { MeshRootError } from '../../src/p2p/root/mesh-root-error.ts';
import type { RootKey } from '../../src/p2p/root/root-key.ts';
import type { TreeSettings } from '../../src/p2p/root/root-limits.ts';
import type { Costs } from './costs.ts';
import type { Thread } from './processors.ts';
import type { VirtualTime } from './virtual-time.ts';

/** Some moment, so that clocks of the epoch are not at zero. */
const EPOCH_MS = 1_700_000_000_000;

interface SimRoot {
  readonly root: MeshRoot;
  readonly thread: Thread;
}

export class SimRoots implements RootTransport {
  readonly urls: readonly string[];
  readonly #roots: ReadonlyMap<string, SimRoot>;
  readonly #time: VirtualTime;
  readonly #costs: Costs;

  constructor(options: {
    /** Of the proxies that are roots. */
    readonly threads: readonly Thread[];
    readonly settings: TreeSettings;
    readonly key: RootKey;
    readonly time: VirtualTime;
    readonly costs: Costs;
  }) {
    const { threads, settings, key, time, costs } = options;
    this.#time = time;
    this.#costs = costs;
    this.urls = threads.map((_, at) => `http://root-${at}.example/`);
    const now = () => EPOCH_MS + time.now();
    this.#roots = new Map(
      this.urls.map((url, at) => [url, { root: new MeshRoot({ settings, key, now }), thread: threads[at]! }]),
    );
  }

  get depth(): number {
    return Math.max(...[...this.#roots.values()].map(({ root }) => root.overview().depth));
  }

  get repairs(): number {
    return [...this.#roots.values()]
      .flatMap(({ root }) => Object.values(root.counts.repairs))
      .reduce((sum, count) => sum + count, 0);
  }

  async join(
    url: string,
    _where: Where,
    { member, contents }: JoinRequest,
    signal: AbortSignal,
  ): Promise<JoinAnswer> {
    const ms = this.#costs.joinMs + contents.length * this.#costs.joinContentMs;
    return this.#ask(url, ms, signal, (root) => ({ ...root.join(member, contents), refused: [] }));
  }

  heartbeat(url: string, _session: string, beat: Heartbeat, signal: AbortSignal): Promise<HeartbeatAnswer> {
    return this.#ask(url, this.#costs.heartbeatMs, signal, (root) => root.heartbeat(beat));
  }

  lost(url: string, _session: string, lost: Lost, signal: AbortSignal): Promise<Place> {
    return this.#ask(url, this.#costs.heartbeatMs, signal, (root) => root.lost(lost));
  }

  leave(url: string, _session: string, leave: Leave, signal: AbortSignal): Promise<void> {
    return this.#ask(url, this.#costs.heartbeatMs, signal, (root) => root.leave(leave));
  }

  keys(): Promise<RootKeys> {
    return Promise.reject(new RootError('ERR_ROOT_ANSWER', 'tickets are not checked here'));
  }

  async #ask<T>(url: string, ms: number, signal: AbortSignal, what: (root: MeshRoot) => T): Promise<T> {
    const found = this.#roots.get(url);
    if (found === undefined) throw new RootError('ERR_ROOT_UNREACHABLE', url);
    await this.#time.sleep(this.#costs.latencyMs, signal);
    await unlessAborted(found.thread.work(ms), signal);
    try {
      const answer = what(found.root);
      await this.#time.sleep(this.#costs.latencyMs, signal);
      return answer;
    } catch (error) {
      if (error instanceof MeshRootError) throw new RootError('ERR_ROOT_UNKNOWN_MEMBER', error.message);
      throw error;
    }
  }
}

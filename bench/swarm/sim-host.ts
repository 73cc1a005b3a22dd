/** A host of the simulation: the real rules of an agent, on simulated links, processors and disks. */
import type { Clock } from '../../src/p2p/agent/clock.ts';
import { Membership } from '../../src/p2p/agent/membership.ts';
import { type MeshCounters, zeroCounters } from '../../src/p2p/agent/mesh-counts.ts';
import { PeerStandings } from '../../src/p2p/agent/peer-standings.ts';
import type { PeerTransport } from '../../src/p2p/agent/peer-transport.ts';
import type { RootTransport } from '../../src/p2p/agent/root-transport.ts';
import { DEFAULT_BUDGETS } from '../../src/p2p/agent/run-time.ts';
import { TreeReader } from '../../src/p2p/agent/tree-reader.ts';
import { UploadTurns } from '../../src/p2p/agent/upload-turns.ts';
import type { Announcement } from '../../src/p2p/mesh-protocol.ts';
import type { Costs } from './costs.ts';
import { Link } from './links.ts';
import { type Processors, Thread } from './processors.ts';
import type { SimContent } from './sim-content.ts';
import type { VirtualTime } from './virtual-time.ts';

const WHERE = { registry: 'reg.example', repository: 'lib/image' };
const LINGER_MS = 3_600_000;
const MAX_IN_FLIGHT_CHUNKS = 16;

/** A run of neighbouring chunks of one content, wanted at the same time. */
export interface Want {
  readonly content: SimContent;
  readonly first: number;
  readonly count: number;
}

/** Where everything comes from that the mesh does not give. */
export interface Origin {
  /** Resolves when the host knows what the image is made of. */
  pull(host: SimHost): Promise<void>;
  /** Resolves when the host has been sent the chunk. */
  chunk(host: SimHost): Promise<void>;
}

export interface SimHostParts {
  readonly member: Announcement;
  readonly bytesPerSecond: number;
  readonly time: VirtualTime;
  readonly processors: Processors;
  readonly costs: Costs;
  readonly origin: Origin;
  /** Null: without the mesh. */
  readonly mesh: {
    readonly peers: PeerTransport;
    readonly roots: RootTransport;
    readonly rootUrls: readonly string[];
  } | null;
}

interface Opened {
  readonly content: SimContent;
  readonly reader: TreeReader | null;
  readonly has: Uint8Array;
  readonly coming: Map<number, PromiseWithResolvers<void>>;
}

export class SimHost {
  readonly parts: SimHostParts;
  readonly up: Link;
  readonly down: Link;
  /** The daemon's: it does one thing at a time. */
  readonly daemon: Thread;
  readonly counters: MeshCounters = zeroCounters();
  readonly turns: UploadTurns;
  /** From the proxy. */
  proxyChunks = 0;
  isAlive = true;
  readonly #membership: Membership | null;
  readonly #standings: PeerStandings;
  readonly #clock: Clock;
  readonly #opened = new Map<string, Opened>();
  readonly #died = new AbortController();

  constructor(parts: SimHostParts) {
    this.parts = parts;
    const { member, bytesPerSecond, time, costs, mesh } = parts;
    this.up = new Link(bytesPerSecond);
    this.down = new Link(bytesPerSecond);
    this.daemon = new Thread(parts.processors);
    this.#clock = new DaemonClock(time, this.daemon);
    this.#standings = new PeerStandings(this.#clock);
    const maxInFlightBytes = MAX_IN_FLIGHT_CHUNKS * costs.chunkBytes;
    this.turns = new UploadTurns({ bytesPerSecond, maxInFlightBytes }, this.#clock);
    this.#membership =
      mesh &&
      new Membership({
        ...{ member, roots: mesh.rootUrls, transport: mesh.roots, clock: this.#clock },
        ...{ joinMs: DEFAULT_BUDGETS.joinMs, lingerMs: LINGER_MS, onTrouble: () => {} },
      });
  }

  get id(): string {
    return this.parts.member.id;
  }

  /** Fires when it fails. */
  get died(): AbortSignal {
    return this.#died.signal;
  }

  fail(): void {
    this.isAlive = false;
    this.#died.abort(new Error('the host has failed'));
    for (const { coming } of this.#opened.values()) {
      for (const { reject } of coming.values()) reject(this.died.reason);
      coming.clear();
    }
    void this.#membership?.close();
  }

  /** The image is pulled: resolves when its contents are open. */
  async open(contents: readonly SimContent[]): Promise<void> {
    await this.parts.origin.pull(this);
    if (!this.isAlive) return;
    void this.#membership?.join(
      WHERE,
      contents.map(({ blob, table }) => ({ blob, table })),
    );
    for (const content of contents) {
      const has = new Uint8Array(content.chunkTable.blobSize / content.chunkTable.chunkSize);
      this.#opened.set(content.table, { content, has, coming: new Map(), reader: this.#reader(content) });
    }
  }

  /** Whether it has, or is getting, this content. */
  holds(table: string): boolean {
    return this.#opened.has(table);
  }

  /** Resolves when the chunks are here; those that are coming already are waited for. Rejects when the host fails. */
  async get({ content, first, count }: Want): Promise<void> {
    const opened = this.#opened.get(content.table)!;
    const waits: Promise<void>[] = [];
    let start = first;
    for (let index = first; index <= first + count; index++) {
      const isNew = index < first + count && opened.has[index] === 0 && !opened.coming.has(index);
      if (isNew) continue;
      const coming = opened.coming.get(index);
      if (index > start) waits.push(this.#fetch(opened, start, index - start));
      start = index + 1;
      if (index < first + count && coming !== undefined) waits.push(coming.promise);
    }
    await Promise.all(waits);
  }

  async #fetch(opened: Opened, first: number, count: number): Promise<void> {
    const { origin, costs } = this.parts;
    const { has, coming } = opened;
    const chunks = Array.from({ length: count }, () => Promise.withResolvers<void>());
    for (const [at, chunk] of chunks.entries()) {
      coming.set(first + at, chunk);
      // When the host fails, nobody may be waiting.
      chunk.promise.catch(() => {});
    }
    const arrived = (index: number) => {
      has[index] = 1;
      coming.get(index)?.resolve();
      coming.delete(index);
    };
    const missing = await this.#fromMesh(opened, first, count, arrived);
    for (const index of missing) {
      this.proxyChunks++;
      void origin
        .chunk(this)
        .then(() => this.daemon.work(costs.receiveMs))
        .then(() => arrived(index));
    }
    for (const { promise } of chunks) await promise;
  }

  #fromMesh(
    opened: Opened,
    first: number,
    count: number,
    deliver: (index: number) => void,
  ): Promise<number[]> {
    const { reader } = opened;
    if (reader !== null) return reader.fetchRun(first, count, this.died, deliver);
    return Promise.resolve(Array.from({ length: count }, (_, at) => first + at));
  }

  #reader(content: SimContent): TreeReader | null {
    const { mesh } = this.parts;
    if (mesh === null || this.#membership === null) return null;
    const { blob, table, chunkTable } = content;
    return new TreeReader({
      ...{ table: chunkTable, seat: this.#membership.open({ blob, table }), transport: mesh.peers },
      ...{ standings: this.#standings, counters: this.counters, budgets: DEFAULT_BUDGETS },
      ...{ clock: this.#clock, onClose: () => {} },
    });
  }
}

/** As a daemon sees time: whatever is due waits until it has done what it is at. */
class DaemonClock implements Clock {
  readonly #time: VirtualTime;
  readonly #daemon: Thread;

  constructor(time: VirtualTime, daemon: Thread) {
    this.#time = time;
    this.#daemon = daemon;
  }

  now(): number {
    return this.#time.now();
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    await this.#time.sleep(ms, signal);
    await this.#daemon.work(0);
    signal?.throwIfAborted();
  }
}

/** A host of the simulation: the real rules of an agent, on simulated links, processors and disks. */
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
import type { Cpu } from './cpu.ts';
import { Link } from './links.ts';
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

/** Where chunks come from that the mesh does not give. */
export interface Origin {
  /** Resolves when the host has the chunk. */
  chunk(host: SimHost): Promise<void>;
}

export interface SimHostParts {
  readonly member: Announcement;
  readonly bytesPerSecond: number;
  readonly time: VirtualTime;
  readonly cpu: Cpu;
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
  readonly counters: MeshCounters = zeroCounters();
  readonly turns: UploadTurns;
  proxyChunks = 0;
  isAlive = true;
  readonly #membership: Membership | null;
  readonly #standings: PeerStandings;
  readonly #opened = new Map<string, Opened>();
  readonly #died = new AbortController();

  constructor(parts: SimHostParts) {
    this.parts = parts;
    const { member, bytesPerSecond, time, costs, mesh } = parts;
    this.up = new Link(bytesPerSecond);
    this.down = new Link(bytesPerSecond);
    this.#standings = new PeerStandings(time);
    const maxInFlightBytes = MAX_IN_FLIGHT_CHUNKS * costs.chunkBytes;
    this.turns = new UploadTurns({ bytesPerSecond, maxInFlightBytes }, time);
    this.#membership =
      mesh &&
      new Membership({
        ...{ member, roots: mesh.rootUrls, transport: mesh.roots, clock: time },
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
    void this.#membership?.close();
  }

  open(contents: readonly SimContent[]): void {
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

  /** Resolves when the chunks are here; those that are coming already are waited for. */
  async get({ content, first, count }: Want): Promise<void> {
    const opened = this.#opened.get(content.table)!;
    const waits: Promise<void>[] = [];
    let start = first;
    for (let index = first; index <= first + count; index++) {
      const isNew = index < first + count && opened.has[index] === 0 && !opened.coming.has(index);
      if (isNew) continue;
      if (index > start) waits.push(this.#fetch(opened, start, index - start));
      start = index + 1;
      const coming = opened.coming.get(index);
      if (index < first + count && coming !== undefined) waits.push(coming.promise);
    }
    await Promise.all(waits);
  }

  async #fetch(opened: Opened, first: number, count: number): Promise<void> {
    const { cpu, costs, origin } = this.parts;
    const chunks = Array.from({ length: count }, () => Promise.withResolvers<void>());
    for (const [at, chunk] of chunks.entries()) {
      opened.coming.set(first + at, chunk);
      chunk.promise.catch(() => {});
    }
    const onDeath = () => {
      for (const { reject } of chunks) reject(this.died.reason);
    };
    this.died.addEventListener('abort', onDeath, { once: true });
    const arrived = async (index: number) => {
      await cpu.work(costs.receiveMs);
      opened.has[index] = 1;
      opened.coming.get(index)?.resolve();
      opened.coming.delete(index);
    };
    const all = Promise.all(chunks.map(({ promise }) => promise));
    // When the host fails, nobody may be waiting.
    all.catch(() => {});
    const missing = await this.#fromMesh(opened, first, count, (index) => void arrived(index));
    for (const index of missing) {
      this.proxyChunks++;
      void origin.chunk(this).then(() => arrived(index));
    }
    await all;
  }

  #fromMesh(
    opened: Opened,
    first: number,
    count: number,
    deliver: (index: number) => void,
  ): Promise<number[]> {
    const everything = Array.from({ length: count }, (_, at) => first + at);
    if (opened.reader === null) return Promise.resolve(everything);
    return opened.reader.fetchRun(first, count, this.died, deliver);
  }

  #reader(content: SimContent): TreeReader | null {
    const { mesh, time } = this.parts;
    if (mesh === null || this.#membership === null) return null;
    const { blob, table, chunkTable } = content;
    return new TreeReader({
      ...{
        table: chunkTable,
        seat: this.#membership.open({ blob, table }),
        transport: mesh.peers,
        clock: time,
      },
      ...{ standings: this.#standings, counters: this.counters, budgets: DEFAULT_BUDGETS, onClose: () => {} },
    });
  }
}

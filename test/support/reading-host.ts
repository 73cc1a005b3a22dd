import { expect } from 'vitest';
import type { Budgets } from '../../src/p2p/agent/mesh.ts';
import { EdgeCounts, zeroCounters } from '../../src/p2p/agent/mesh-counts.ts';
import { PeerRun } from '../../src/p2p/agent/peer-run.ts';
import { PeerStandings } from '../../src/p2p/agent/peer-standings.ts';
import { DEFAULT_BUDGETS } from '../../src/p2p/agent/run-time.ts';
import type { Place } from '../../src/p2p/mesh-protocol.ts';
import { chunkedBlob } from './chunked-blob.ts';
import { type PeerScript, placeBelow, ScriptedPeers } from './scripted-peers.ts';
import { VirtualClock } from './virtual-clock.ts';

const HOST_CHUNKS = 4;
export const HOST_BLOB = chunkedBlob(HOST_CHUNKS, 7);

/** Reads {@link HOST_BLOB} below scripted peers, on a virtual clock: what it got, whom it reported, in what time. */
export class ReadingHost {
  readonly clock = new VirtualClock();
  readonly standings = new PeerStandings(this.clock);
  readonly counters = zeroCounters();
  readonly edges = new EdgeCounts();
  readonly got = new Map<number, number>();
  readonly reports: string[] = [];
  readonly peers: ScriptedPeers;
  /** What the root gives for a report. */
  next: Place | null = null;
  place: Place | null;
  readonly #budgets: Budgets;

  /** @param letters parent and alternates */
  constructor(letters: string, scripts: Record<string, PeerScript>, budgets: Budgets = DEFAULT_BUDGETS) {
    this.#budgets = budgets;
    this.peers = new ScriptedPeers(this.clock, scripts);
    this.place = placeBelow(HOST_BLOB, letters);
  }

  /** What is missing, and how long it took. */
  async read(signal = new AbortController().signal): Promise<{ missing: number[]; tookMs: number }> {
    const startMs = this.clock.now();
    const missing = await this.clock.run(this.start(signal));
    return { missing, tookMs: this.clock.now() - startMs };
  }

  start(signal = new AbortController().signal, first = 0, count = HOST_CHUNKS): Promise<number[]> {
    const host = this;
    const seat = {
      get place() {
        return host.place;
      },
      lose: async ({ id }: { id: string }, reason: string) => {
        host.reports.push(`${id.charAt(0)} ${reason}`);
        await host.clock.sleep(20);
        if (host.next !== null) host.place = host.next;
      },
    };
    const { clock, standings, counters, edges, peers } = this;
    const shared = { clock, standings, counters, edges, transport: peers, budgets: this.#budgets };
    const run = new PeerRun({ ...shared, table: HOST_BLOB.table, seat }, first, count, (index, bytes) => {
      expect(bytes.equals(HOST_BLOB.bytes.subarray(index * 4096, (index + 1) * 4096))).toBe(true);
      expect(this.got.has(index), 'delivered once').toBe(false);
      this.got.set(index, clock.now());
    });
    return run.get(signal);
  }
}

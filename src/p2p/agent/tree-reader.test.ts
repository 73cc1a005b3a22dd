import { expect, test } from 'vitest';
import { chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { has, placeBelow, ScriptedPeers } from '../../../test/support/scripted-peers.ts';
import { VirtualClock } from '../../../test/support/virtual-clock.ts';
import { zeroCounters } from './mesh-counts.ts';
import { DEFAULT_BUDGETS } from './peer-run.ts';
import { PeerStandings } from './peer-standings.ts';
import { Seat } from './seat.ts';
import { TreeReader } from './tree-reader.ts';

const BLOB = chunkedBlob(4, 7);
const SLOW_AS_IT = { bytes: 4096, latencyMs: DEFAULT_BUDGETS.readMs };
const FAST = { bytes: 4096, latencyMs: 20 };

/** A host below `b`, which says that it has everything and gives nothing, as does the alternate. */
class Child {
  readonly clock = new VirtualClock();
  readonly reports: string[] = [];
  readonly peers: ScriptedPeers;
  readonly reader: TreeReader;

  constructor(depth: number) {
    const { clock } = this;
    const stalls = has(BLOB, { chunks: 0 });
    this.peers = new ScriptedPeers(clock, { b: stalls, c: stalls });
    const place = { ...placeBelow(BLOB, 'bc'), depth };
    const { blob, table } = place;
    const seat = new Seat({
      ...{ content: { blob, table }, clock, joinMs: 1_000 },
      lose: async (_seat, { id }, reason) => void this.reports.push(`${id.charAt(0)} ${reason}`),
    });
    seat.take('http://root', place);
    this.reader = new TreeReader({
      ...{ seat, clock, table: BLOB.table, transport: this.peers, budgets: DEFAULT_BUDGETS },
      ...{ standings: new PeerStandings(clock), counters: zeroCounters(), onClose: () => {} },
    });
  }

  /** Asks for all, and gets what is missing from proxies that take so long; the indexes of that. */
  async read({ bytes, latencyMs }: typeof FAST): Promise<number[]> {
    const missing = await this.clock.run(this.reader.fetchRun(0, 4, new AbortController().signal, () => {}));
    if (missing.length > 0) this.reader.countProxy(bytes, latencyMs);
    return missing;
  }
}

test('a host at the top that gives nothing, twice, where the proxies do at once, is left and reported', async () => {
  const child = new Child(2);
  expect(await child.read(FAST)).toEqual([0, 1, 2, 3]);
  expect(child.reports).toEqual([]);
  await child.read(FAST);
  expect(child.reports).toEqual(['b slow']);
  child.peers.asked.length = 0;
  await child.read(FAST);
  expect(child.peers.asked).not.toContain('b 0+4');
});

test('a host at the top is not blamed for proxies that are as slow', async () => {
  const child = new Child(2);
  for (let time = 0; time < 4; time++) await child.read(SLOW_AS_IT);
  expect(child.reports).toEqual([]);
});

test('a host further down, which may be waiting itself, is not blamed', async () => {
  const child = new Child(3);
  for (let time = 0; time < 4; time++) await child.read(FAST);
  expect(child.reports).toEqual([]);
});

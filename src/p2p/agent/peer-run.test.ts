import { expect, test } from 'vitest';
import { HOST_BLOB, ReadingHost as Host } from '../../../test/support/reading-host.ts';
import {
  dead,
  fails,
  has,
  type PeerScript,
  peerNamed,
  placeBelow,
  ScriptedPeers,
} from '../../../test/support/scripted-peers.ts';
import { VirtualClock } from '../../../test/support/virtual-clock.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { EdgeCounts, zeroCounters } from './mesh-counts.ts';
import { PeerRun } from './peer-run.ts';
import { PeerStandings } from './peer-standings.ts';
import { DEFAULT_BUDGETS, LONG_BUDGETS } from './run-time.ts';

const BLOB = HOST_BLOB;
const ALL = [0, 1, 2, 3];

test('all comes from the parent while it is well', async () => {
  const host = new Host('bc', { b: has(BLOB), c: has(BLOB) });
  expect(await host.read()).toEqual({ missing: [], tookMs: 5 });
  expect(host.peers.asked).toEqual(['b 0+4']);
  expect(host.edges.take(host.place!.table)).toMatchObject([
    { from: 'b'.repeat(32), bytes: 4 * 4096, latencyMs: 2 },
  ]);
});

test('a parent that says nothing for 300 ms is left, reported, and not asked by later runs', async () => {
  const host = new Host('bc', { b: dead, c: has(BLOB) });
  expect(await host.read()).toEqual({ missing: [], tookMs: 305 });
  host.got.clear();
  expect(await host.read()).toEqual({ missing: [], tookMs: 5 });
  expect(host.peers.asked).toEqual(['b 0+4', 'c 0+4', 'c 0+4']);
  expect(host.reports).toEqual(['b unreachable']);
});

test('a parent whose connection breaks is left at once, and what it sent is kept', async () => {
  const breaks: PeerScript = async (request, on, clock, signal) => {
    await has(BLOB)({ ...request, count: 2 }, on, clock, signal);
    throw new Error('connection reset');
  };
  const host = new Host('bc', { b: breaks, c: has(BLOB) });
  expect(await host.read()).toEqual({ missing: [], tookMs: 6 });
  expect(host.peers.asked).toEqual(['b 0+4', 'c 2+2']);
  expect(host.reports).toEqual(['b unreachable']);
});

test('a parent that stalls is hedged, and left when that happens again', async () => {
  const host = new Host('bc', { b: has(BLOB, { chunks: 1 }), c: has(BLOB) });
  const first = await host.read();
  expect(first.missing).toEqual([]);
  expect(first.tookMs).toBeLessThan(600);
  expect(host.reports).toEqual([]);
  host.got.clear();
  expect((await host.read()).missing).toEqual([]);
  expect(host.peers.asked).toEqual(['b 0+4', 'c 1+3', 'b 0+4', 'c 1+3']);
  expect(host.reports).toEqual(['b slow']);
  expect(host.counters).toMatchObject({ hedges: 2, hedgesWon: 2, left: { slow: 1 } });
});

test('a parent that is only as slow as ever is not hedged', async () => {
  const host = new Host('bc', { b: has(BLOB, { findMs: 100, chunkMs: 250 }), c: has(BLOB) });
  await host.read();
  expect(host.peers.asked).toEqual(['b 0+4']);
});

test('the hedge counts for nothing if the parent is faster after all', async () => {
  const host = new Host('bc', { b: has(BLOB, { chunkMs: 900 }), c: has(BLOB, { chunkMs: 10_000 }) });
  await host.read();
  expect(host.counters).toMatchObject({ hedges: 1, hedgesWon: 0 });
  expect(host.reports).toEqual([]);
});

test('a chunk with wrong bytes is not delivered, and its sender is left and reported', async () => {
  const host = new Host('bc', { b: has(BLOB, { wrong: [1] }), c: has(BLOB) });
  expect((await host.read()).missing).toEqual([]);
  expect(host.peers.asked).toEqual(['b 0+4', 'c 1+3']);
  expect(host.reports).toEqual(['b wrong-bytes']);
  expect(host.counters.wrongChunks).toBe(1);
});

test('when nobody has it the rest is left to the proxies, within 2 s', async () => {
  const silent = has(BLOB, { chunks: 0 });
  const host = new Host('bcd', { b: silent, c: silent, d: silent });
  const { missing, tookMs } = await host.read();
  expect(missing).toEqual(ALL);
  expect(tookMs).toBe(2_000);
  expect(host.reports).toEqual([]);
});

test.each([
  [2, 'at the top, is reported', ['b slow']],
  [3, 'below others, is not', []],
])(
  'reads do not wait 2 s each for a parent that gives nothing (%i deep: %s)',
  async (depth, _what, reports) => {
    let isWell = false;
    const host = new Host('b', { b: (...asked) => has(BLOB, isWell ? {} : { chunks: 0 })(...asked) });
    host.place = { ...host.place!, depth };
    let waitedMs = 0;
    for (let read = 0; read < 60; read++) {
      waitedMs += (await host.read()).tookMs;
      await host.clock.run(host.clock.sleep(500));
    }
    const budgetMs = depth === 2 ? 2_000 : 2_150;
    expect(waitedMs).toBe(4 * budgetMs);
    expect(host.reports).toEqual(reports);
    isWell = true;
    await host.clock.run(host.clock.sleep(40_000));
    expect((await host.read()).missing).toEqual([]);
    // It begins anew.
    isWell = false;
    expect((await host.read()).tookMs).toBe(budgetMs);
    expect((await host.read()).tookMs).toBe(budgetMs);
  },
);

test('when the top of a tree stalls, those right below it ask the proxies, and the others get it from them', async () => {
  const clock = new VirtualClock();
  const signal = new AbortController().signal;
  let askedProxies = 0;
  type GetChunk = () => Promise<Buffer>;
  const hostBelow = (parent: GetChunk, depth: number): GetChunk => {
    const peers = new ScriptedPeers(clock, {
      b: async (_request, on, _clock, ends) => {
        await clock.sleep(1, ends);
        on.found();
        on.deliver(0, await unlessAborted(parent(), ends));
      },
    });
    const get = async () => {
      const seat = { place: { ...placeBelow(BLOB, 'b'), depth }, lose: async () => {} };
      const counted = {
        counters: zeroCounters(),
        edges: new EdgeCounts(),
        standings: new PeerStandings(clock),
      };
      const parts = {
        seat,
        clock,
        ...counted,
        transport: peers,
        budgets: DEFAULT_BUDGETS,
        table: BLOB.table,
      };
      const missing = await new PeerRun(parts, 0, 1, () => {}).get(signal);
      if (missing.length > 0) {
        askedProxies++;
        await clock.sleep(50);
      }
      return Buffer.from(BLOB.bytes.subarray(0, BLOB.table.chunkSize));
    };
    let coming: Promise<Buffer> | null = null;
    return () => {
      coming ??= get();
      return coming;
    };
  };
  let level: GetChunk[] = [() => new Promise(() => {})];
  const hosts: GetChunk[] = [];
  for (let depth = 2; depth <= 4; depth++) {
    level = level.flatMap((above) => Array.from({ length: 4 }, () => hostBelow(above, depth)));
    hosts.push(...level);
  }
  await clock.run(Promise.all(hosts.map((get) => get())));
  expect(hosts.length).toBe(84);
  expect(askedProxies).toBe(4);
});

test('when nobody can be reached the proxies are asked within two budgets for finding; it may be this host that cannot', async () => {
  const host = new Host('bc', { b: dead, c: dead });
  expect(await host.read()).toEqual({ missing: ALL, tookMs: 600 });
  expect(host.reports).toEqual([]);
  expect(await host.read()).toEqual({ missing: ALL, tookMs: 620 });
  expect(host.reports).toEqual(['b unreachable', 'c unreachable']);
});

test('a parent that was there a moment ago has as long as for a chunk to say something: it may have much to do', async () => {
  const host = new Host('b', { b: has(BLOB, { findMs: 850 }) });
  host.standings.heard('b'.repeat(32));
  expect(await host.read()).toEqual({ missing: [], tookMs: 854 });
  const other = new Host('b', { b: has(BLOB, { findMs: 850 }) });
  expect(await other.read()).toEqual({ missing: ALL, tookMs: 300 });
});

test('who wants all of a blob waits longer for a host whose link is full, as long as chunks keep coming', async () => {
  const slow = () => ({ b: has(BLOB, { findMs: 1_200, chunkMs: 3_500 }) });
  const host = new Host('b', slow(), LONG_BUDGETS);
  expect(await host.read()).toEqual({ missing: [], tookMs: 15_200 });
  expect(await new Host('b', slow()).read()).toMatchObject({ missing: ALL });
});

test('many requests that are silent at once are one fault', async () => {
  const host = new Host('b', { b: dead });
  await host.clock.run(
    Promise.all(
      Array.from({ length: 8 }, async (_, at) => {
        await host.clock.sleep(at * 30);
        await host.start(undefined, at % 4, 1);
      }),
    ),
  );
  expect(host.reports).toEqual([]);
  await host.read();
  expect(host.reports).toEqual(['b unreachable']);
});

test('of several silent hosts only that is left which was silent before, and the root is asked for another', async () => {
  const host = new Host('b', { b: dead, c: dead, d: has(BLOB) });
  await host.read();
  host.place = placeBelow(BLOB, 'bc');
  host.next = placeBelow(BLOB, 'd');
  expect(await host.read()).toEqual({ missing: [], tookMs: 625 });
  expect(host.reports).toEqual(['b unreachable']);
});

test('a parent that only takes long to say that it has the content stays, if it is sooner than the alternate', async () => {
  const host = new Host('bc', { b: has(BLOB, { findMs: 400 }), c: has(BLOB, { findMs: 250 }) });
  expect(await host.read()).toEqual({ missing: [], tookMs: 404 });
  expect(host.peers.asked).toEqual(['b 0+4', 'c 0+4']);
  expect(host.reports).toEqual([]);
});

test('the parent that the root names instead is asked before the proxies', async () => {
  const host = new Host('b', { b: fails('ERR_PEER_UNREACHABLE'), d: has(BLOB) });
  host.next = placeBelow(BLOB, 'd');
  expect(await host.read()).toEqual({ missing: [], tookMs: 26 });
  expect(host.peers.asked).toEqual(['b 0+4', 'd 0+4']);
});

test('chunks that keep coming slowly are taken for 4 s, and what comes later is left to the proxies', async () => {
  const host = new Host('b', { b: has(BLOB, { chunkMs: 1_500 }) });
  expect(await host.read()).toEqual({ missing: [2, 3], tookMs: 4_000 });
});

test('a parent from which each chunk takes long is given more than 2 s for the next one, but no more than 4', async () => {
  const slow = { b: has(BLOB, { chunkMs: 1_500 }) };
  const host = new Host('b', slow);
  expect((await host.read()).missing).toEqual([2, 3]);
  slow.b = has(BLOB, { chunkMs: 2_500 });
  host.got.clear();
  expect(await host.read()).toEqual({ missing: [1, 2, 3], tookMs: 4_000 });
  host.got.clear();
  slow.b = has(BLOB, { chunks: 0 });
  expect(await host.read()).toEqual({ missing: ALL, tookMs: 4_000 });
});

test('a busy parent is not left: the alternate that it names is asked this time', async () => {
  const host = new Host('b', { b: fails('ERR_PEER_BUSY', [peerNamed('e')]), e: has(BLOB) });
  expect((await host.read()).missing).toEqual([]);
  expect(host.peers.asked).toEqual(['b 0+4', 'e 0+4']);
  expect(host.reports).toEqual([]);
});

test('hosts that send us from one to the next are not followed for long', async () => {
  let named = 0;
  const elsewhere: PeerScript = (...asked) => {
    const others = Array.from({ length: 8 }, () => ({
      id: `b${(++named).toString(16).padStart(31, '0')}`,
      address: `192.0.2.1:${named}`,
    }));
    return fails('ERR_PEER_BUSY', others)(...asked);
  };
  const host = new Host('a', { a: elsewhere, b: elsewhere });
  expect((await host.read()).missing).toEqual(ALL);
  expect(host.peers.asked).toEqual(['a 0+4', ...Array(4).fill('b 0+4')]);
});

test('a parent that is busy again and again is given up', async () => {
  const host = new Host('b', { b: fails('ERR_PEER_BUSY') });
  for (let round = 0; round < 4; round++) {
    await host.read();
    await host.clock.run(host.clock.sleep(400));
  }
  expect(host.reports).toEqual(['b refused']);
});

test('a parent that does not take the ticket is left for this tree alone', async () => {
  const host = new Host('bc', { b: fails('ERR_PEER_TICKET'), c: has(BLOB) });
  await host.read();
  expect(host.reports).toEqual(['b refused']);
  expectAvoidedInThisTree(host);
});

test('a parent that does not have the content may open it soon: it is asked again, and given up when that goes on', async () => {
  const host = new Host('bc', { b: fails('ERR_PEER_UNKNOWN_CONTENT'), c: has(BLOB) });
  for (let round = 0; round < 4; round++) {
    expect(host.reports).toEqual([]);
    host.got.clear();
    expect((await host.read()).missing).toEqual([]);
    expectAvoidedInThisTree(host);
    await host.clock.run(host.clock.sleep(400));
  }
  expect(host.peers.asked.filter((asked) => asked.startsWith('b'))).toHaveLength(4);
  expect(host.reports).toEqual(['b refused']);
});

function expectAvoidedInThisTree({ standings }: Host): void {
  const { table, blob } = placeBelow(BLOB, '');
  expect(standings.isAvoided('b'.repeat(32), table)).toBe(true);
  expect(standings.isAvoided('b'.repeat(32), blob)).toBe(false);
}

test('a parent that was there a moment ago and is late once is not left, and the next time it is', async () => {
  const host = new Host('bc', { b: dead, c: has(BLOB) });
  host.standings.heard('b'.repeat(32));
  expect(await host.read()).toEqual({ missing: [], tookMs: 305 });
  expect(host.reports).toEqual([]);
  host.got.clear();
  expect(await host.read()).toEqual({ missing: [], tookMs: 305 });
  expect(host.reports).toEqual(['b unreachable']);
});

test('a parent that always takes long to say something is given that time, up to a bound', async () => {
  const slow = { b: has(BLOB, { findMs: 280 }), c: has(BLOB) };
  const host = new Host('bc', slow);
  await host.read();
  slow.b = has(BLOB, { findMs: 550 });
  host.got.clear();
  await host.read();
  expect(host.peers.asked).toEqual(['b 0+4', 'b 0+4']);
  slow.b = has(BLOB, { findMs: 5_000 });
  host.got.clear();
  expect((await host.read()).tookMs).toBeLessThan(910);
});

test('a parent that cannot get all itself is not blamed', async () => {
  const host = new Host('bc', { b: fails('ERR_PEER_INCOMPLETE'), c: has(BLOB) });
  expect((await host.read()).missing).toEqual([]);
  expect(host.reports).toEqual([]);
});

test('an answer that is none counts as wrong bytes', async () => {
  const host = new Host('bc', { b: fails('ERR_PEER_ANSWER'), c: has(BLOB) });
  await host.read();
  expect(host.reports).toEqual(['b wrong-bytes']);
});

test('a process that was held up itself blames nobody', async () => {
  const host = new Host('bc', { b: has(BLOB, { findMs: 290 }), c: has(BLOB) });
  host.clock.hold(50, 5_000);
  expect((await host.read()).missing).toEqual([]);
  expect(host.peers.asked).toEqual(['b 0+4']);
  expect(host.reports).toEqual([]);
});

test('requests that wait for their turn with a peer are not held against it, and short ones go first', async () => {
  const host = new Host('b', { b: has(BLOB, { findMs: 200, chunkMs: 0 }) });
  const order: number[] = [];
  const reads = Array.from({ length: 8 }, () =>
    host.standings.enter('b'.repeat(32), 1, new AbortController().signal),
  );
  const leaves = await Promise.all(reads);
  const long = host.start(undefined, 0, 3).then(() => order.push(3));
  const short = host.start(undefined, 3, 1).then(() => order.push(1));
  void host.clock.sleep(700).then(() => leaves[0]!());
  await host.clock.run(Promise.all([long, short]));
  expect(order).toEqual([1, 3]);
  expect(host.reports).toEqual([]);
  expect(host.got.size).toBe(4);
});

test('a reader that goes away gets its own reason, and the peer is told', async () => {
  let isTold = false;
  const host = new Host('b', {
    b: (request, on, clock, signal) => {
      signal.addEventListener('abort', () => {
        isTold = true;
      });
      return dead(request, on, clock, signal);
    },
  });
  const reader = new AbortController();
  void host.clock.sleep(10).then(() => reader.abort(new Error('not any more')));
  await expect(host.read(reader.signal)).rejects.toThrow('not any more');
  expect(isTold).toBe(true);
  expect(host.reports).toEqual([]);
});

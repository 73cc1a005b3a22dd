import { beforeEach, expect, test } from 'vitest';
import { digestOf } from '../../oci/digest.ts';
import type { Announcement, Content, EdgeReport, Lost, Place } from '../mesh-protocol.ts';
import { verifyTicket } from '../tickets.ts';
import { MeshRoot } from './mesh-root.ts';
import { RootKey } from './root-key.ts';
import { DEFAULT_LIMITS, type RootLimits, treeSettingsSchema } from './root-limits.ts';

const HEARTBEAT_MS = 5_000;
/** Of a root that has very many members. */
const LONGEST_BEAT_MS = 120_000;
const MIB = 2 ** 20;
const IMAGE: Content[] = ['base', 'top'].map((name) => ({
  blob: digestOf(name),
  table: digestOf(`${name} table`),
}));
const [BASE, TOP] = IMAGE as [Content, Content];
const key = RootKey.generate();

let nowMs: number;
let root: MeshRoot;

beforeEach(() => {
  nowMs = 1_700_000_000_000;
  root = startRoot();
});

function startRoot(limits: RootLimits = DEFAULT_LIMITS): MeshRoot {
  const settings = treeSettingsSchema.parse({
    maxFanOut: 2,
    bytesPerSecondPerChild: MIB,
    heartbeatMs: HEARTBEAT_MS,
  });
  return new MeshRoot({ settings, key, now: () => nowMs, limits });
}

function host(number: number, zone = '', uploadBytesPerSecond = 2 * MIB): Announcement {
  const id = number.toString(16).padStart(32, '0');
  return { id, address: `10.0.0.${number}:6012`, zone, uploadBytesPerSecond };
}

function join(number: number, contents: Content[] = [BASE], zone = ''): Place[] {
  return root.join(host(number, zone), contents).places;
}

function beat(number: number, contents: Content[] = [BASE], edges: EdgeReport[] = []) {
  return root.heartbeat({ member: host(number), contents, edges });
}

/** Time in which some members say that they are there. */
function pass(ms: number, numbers: readonly number[], contents: Content[] = [BASE]): void {
  for (const endMs = nowMs + ms; nowMs < endMs; ) {
    nowMs += HEARTBEAT_MS;
    for (const number of numbers) beat(number, contents);
  }
}

function lose(number: number, from: number, reason: Lost['reason'], content = BASE): Place {
  return root.lost({ id: host(number).id, ...content, lost: host(from).id, reason });
}

/** The number of each one's parent; null at the top. */
function parents({ table }: Content = BASE): Record<number, number | null> {
  const [tree] = root.trees((content) => content.table === table);
  return Object.fromEntries(
    (tree?.hosts ?? []).map(({ id, parent }) => [
      Number.parseInt(id, 16),
      parent === null ? null : Number.parseInt(parent, 16),
    ]),
  );
}

test('one join gives a place and a ticket for each content of an image', () => {
  join(1, IMAGE);
  const places = join(2, IMAGE);
  expect(places).toMatchObject([
    {
      ...BASE,
      parent: { id: host(1).id, address: '10.0.0.1:6012' },
      alternates: [],
      depth: 2,
      ticketEndsInMs: 600_000,
    },
    { ...TOP, parent: { id: host(1).id }, depth: 2 },
  ]);
  for (const { ticket, ticketEndsInMs, blob, table } of places) {
    const proved = verifyTicket(ticket, key.verifyingKeys(), nowMs);
    expect(proved).toEqual({ blob, table, member: host(2).id, endsAtMs: nowMs + ticketEndsInMs });
  }
});

test('who joins again stays where it is', () => {
  for (const number of [1, 2, 3, 4]) join(number);
  const before = parents();
  expect(join(2)[0]).toMatchObject({ parent: { id: host(1).id } });
  expect(parents()).toEqual(before);
});

test('the same table of another blob has a tree of its own: rights to one are no way to the other', () => {
  join(1, [BASE]);
  const [place] = join(2, [{ blob: digestOf('mine'), table: BASE.table }]);
  expect(place).toMatchObject({ parent: null, blob: digestOf('mine') });
});

test('who is silent for three heartbeats is gone, and its children hear of their new parent', () => {
  for (const number of [1, 2, 3, 4, 5, 6]) join(number);
  expect(parents()).toEqual({ 1: null, 2: 1, 3: 1, 4: 2, 5: 3, 6: 2 });
  pass(10_000, [1, 3, 4, 5, 6]);
  expect(Object.keys(parents())).toContain('2');
  nowMs += HEARTBEAT_MS;
  expect(beat(1).places).toEqual([]);
  // The gone one was an alternate of theirs.
  for (const [child, parent] of [
    [3, 1],
    [5, 3],
  ] as const) {
    const [place] = beat(child).places;
    expect(place).toMatchObject({ parent: { id: host(parent).id } });
    expect(place?.alternates.map(({ id }) => id)).not.toContain(host(2).id);
    expect(beat(child).places).toEqual([]);
  }
  const [rising] = beat(4).places;
  expect(rising).toMatchObject({ parent: { id: host(1).id }, depth: 2 });
  expect(beat(6).places).toMatchObject([{ parent: { id: host(4).id }, depth: 3 }]);
  expect(parents()).toEqual({ 1: null, 3: 1, 4: 1, 5: 3, 6: 4 });
  expect(root.counts.repairs.silent).toBe(1);
});

test('the more members there are, the less often they are heard of, and the longer they may be silent', () => {
  expect(root.join(host(1), [BASE]).heartbeatMs).toBe(HEARTBEAT_MS);
  for (let number = 2; number <= 400; number += 1) join(number);
  const all = Array.from({ length: 400 }, (_, at) => at + 1);
  for (const number of all) expect(beat(number).heartbeatMs).toBe(20_000);
  nowMs += 50_000;
  for (const number of all) if (number !== 3) beat(number);
  expect(Object.keys(parents())).toContain('3');
  nowMs += 10_000;
  beat(1);
  expect(Object.keys(parents())).not.toContain('3');
  for (let number = 401; number <= 3_000; number += 1) join(number);
  expect(beat(2).heartbeatMs).toBe(LONGEST_BEAT_MS);
});

test('when most members seem to be silent at once the trees stay for a while: it is the root that hears nothing', () => {
  const numbers = Array.from({ length: 20 }, (_, at) => at + 1);
  for (const number of numbers) join(number);
  const before = parents();
  nowMs += 4 * HEARTBEAT_MS;
  beat(20);
  expect(parents()).toEqual(before);
  // Most are back at once, the others a little later: all have time for it.
  for (const number of numbers.slice(8)) beat(number);
  nowMs += HEARTBEAT_MS;
  for (const number of numbers.slice(5)) beat(number);
  expect(parents()).toEqual(before);
  pass(4 * HEARTBEAT_MS, numbers.slice(5));
  expect(Object.keys(parents())).toHaveLength(15);
  nowMs += 12 * HEARTBEAT_MS;
  beat(20);
  expect(Object.keys(parents())).toEqual(['20']);
});

test('a host that a full root turns down, and that goes away, is forgotten as any other', () => {
  root = startRoot({ ...DEFAULT_LIMITS, seats: 1 });
  expect(() => join(1, IMAGE)).toThrow(expect.objectContaining({ code: 'ERR_MESH_FULL' }));
  expect(root.overview()).toMatchObject({ members: 1, seats: 1 });
  nowMs += 3 * HEARTBEAT_MS;
  expect(root.overview()).toMatchObject({ members: 0, seats: 0 });
});

test('who complains of its parent gets another place at once', () => {
  for (const number of [1, 2, 3, 4, 5]) join(number);
  const place = lose(4, 2, 'slow');
  expect(place).toMatchObject({ parent: { id: host(3).id } });
  expect(place.alternates).not.toContainEqual(expect.objectContaining({ id: host(2).id }));
  expect(root.counts.repairs.lost).toBe(1);
});

test('one complaint moves who complains; a second one by another child takes all children from the parent, for a while', () => {
  for (const number of [1, 2, 3, 4, 5, 6, 7]) join(number);
  expect(parents()).toMatchObject({ 4: 2, 6: 2 });
  lose(4, 2, 'unreachable');
  expect(Object.values(parents()).filter((parent) => parent === 2)).not.toEqual([]);
  lose(6, 2, 'unreachable');
  expect(Object.values(parents())).not.toContain(2);
  const stateOf = () => root.trees(() => true)[0]?.hosts.find(({ id }) => id === host(2).id);
  expect(stateOf()).toMatchObject({ state: 'suspected', slots: 0 });
  pass(65_000, [1, 2, 3, 4, 5, 6, 7]);
  expect(stateOf()).toMatchObject({ state: 'ok', slots: 2 });
});

test('a complaint about somebody that one was not sent to harms nobody', () => {
  for (const number of [1, 2, 3, 4, 5, 6, 7]) join(number);
  for (const slanderer of [4, 5, 6, 7]) lose(slanderer, 1, 'wrong-bytes');
  expect(parents()).toMatchObject({ 1: null, 2: 1, 3: 1 });
  expect(root.counts).toMatchObject({ wrongBytes: 0, suspected: 0 });
});

test('who finds fault with everybody is at fault: it has no children, and the others keep theirs', () => {
  for (let number = 1; number <= 12; number += 1) join(number);
  for (let times = 0; times < 6; times += 1) {
    const parent = parents()[12];
    if (parent === null || parent === undefined) break;
    lose(12, parent, 'slow');
  }
  const [tree] = root.trees(() => true);
  const suspected = tree?.hosts
    .filter(({ state }) => state === 'suspected')
    .map(({ id }) => Number.parseInt(id, 16));
  expect(suspected).toEqual([12]);
  expect(Object.values(parents())).not.toContain(12);
});

test('who sent wrong bytes is shown, and left by the one who got them', () => {
  for (const number of [1, 2, 3]) join(number);
  lose(3, 1, 'wrong-bytes');
  expect(parents()[3]).not.toBe(1);
  const [tree] = root.trees(() => true);
  expect(tree?.hosts.find(({ id }) => id === host(1).id)).toMatchObject({ wrongBytes: 1 });
});

test('who complains is there, though it did not say so otherwise', () => {
  for (const number of [1, 2, 3, 4]) join(number);
  nowMs += 1.6 * HEARTBEAT_MS;
  beat(1);
  lose(2, 1, 'unreachable');
  expect(Object.keys(parents())).toContain('1');
  lose(4, 2, 'unreachable');
  expect(Object.keys(parents())).toContain('2');
});

test('a member whose heartbeat is overdue is gone by the word of one child', () => {
  for (const number of [1, 2, 3, 4]) join(number);
  nowMs += 1.6 * HEARTBEAT_MS;
  for (const number of [1, 3, 4]) beat(number);
  expect(lose(4, 2, 'unreachable')).toMatchObject({ parent: expect.anything() });
  expect(Object.keys(parents())).not.toContain('2');
});

test('who leaves is gone from the trees it names, or from all', () => {
  join(1, IMAGE);
  join(2, IMAGE);
  root.leave({ id: host(1).id, contents: [TOP] });
  expect([parents(BASE), parents(TOP)]).toEqual([{ 1: null, 2: 1 }, { 2: null }]);
  root.leave({ id: host(1).id, contents: [] });
  root.leave({ id: host(2).id, contents: [] });
  expect(root.overview()).toMatchObject({ members: 0, seats: 0, trees: [], depth: 0 });
});

test('a heartbeat that does not name a content any more leaves it, but not one that was joined meanwhile', () => {
  join(1, IMAGE);
  beat(1, [BASE]);
  expect(parents(TOP)).toEqual({ 1: null });
  nowMs += HEARTBEAT_MS + 1;
  beat(1, [BASE]);
  expect(parents(TOP)).toEqual({});
  expect(parents(BASE)).toEqual({ 1: null });
});

test('tickets are renewed by heartbeats in time, and not for ever: the right has to be shown again', () => {
  join(1);
  let last = nowMs;
  const tickets: number[] = [];
  while (nowMs < last + 60 * 60_000 - HEARTBEAT_MS) {
    nowMs += HEARTBEAT_MS;
    const { places, unknown } = beat(1);
    expect(unknown).toEqual([]);
    for (const { ticketEndsInMs } of places) tickets.push(ticketEndsInMs);
  }
  expect(tickets.length).toBeGreaterThan(9);
  expect(Math.min(...tickets)).toBeGreaterThan(5 * 60_000);
  last = nowMs;
  nowMs += HEARTBEAT_MS;
  expect(beat(1)).toMatchObject({ places: [], unknown: [BASE] });
  join(1);
  nowMs += HEARTBEAT_MS;
  expect(beat(1).unknown).toEqual([]);
});

test('what a member received is shown by edge, and counted by source', () => {
  join(1);
  join(2);
  beat(1, [BASE], [{ table: BASE.table, from: null, bytes: 100, latencyMs: 9 }]);
  const edge = { table: BASE.table, from: host(1).id, latencyMs: 2 };
  beat(2, [BASE], [{ ...edge, bytes: 30 }]);
  beat(2, [BASE], [{ ...edge, bytes: 40, latencyMs: null }]);
  const [tree] = root.trees(() => true);
  expect(tree?.hosts).toMatchObject([
    { id: host(1).id, parent: null, children: 1, edges: [{ from: null, bytes: 100, latencyMs: 9 }] },
    { id: host(2).id, parent: host(1).id, edges: [{ from: host(1).id, bytes: 70, latencyMs: 2 }] },
  ]);
  expect(root.counts.received).toEqual({ peers: 70, proxies: 100 });
});

test('after a restart all find their parents where they were, those at the top first', () => {
  const numbers = [1, 2, 3, 4, 5, 6, 7, 8];
  for (const number of numbers) join(number);
  const before = parents();
  const { table } = BASE;
  const edgesOf = (number: number): EdgeReport[] => {
    const parent = before[number] ?? null;
    return [{ table, from: parent === null ? null : host(parent).id, bytes: 5, latencyMs: 1 }];
  };
  root = startRoot();
  const rounds: number[][] = [];
  for (let round = 0; round < 4; round += 1) {
    const told: number[] = [];
    // The deepest speak first: the worst order.
    for (const number of numbers.toReversed()) {
      const { unknown } = beat(number, [BASE], edgesOf(number));
      if (unknown.length === 0) continue;
      told.push(number);
      join(number);
    }
    rounds.push(told);
    nowMs += HEARTBEAT_MS;
  }
  expect(rounds).toEqual([
    [1],
    [3, 2],
    [8, 7, 6, 5, 4].filter((number) => before[number] !== 4),
    expect.anything(),
  ]);
  expect(parents()).toEqual(before);
});

test('the more wait for their parents after a restart, the less often they ask', () => {
  root = startRoot();
  const edges = [{ table: BASE.table, from: host(5_000).id, bytes: 5, latencyMs: 1 }];
  const told = Array.from({ length: 200 }, (_, at) => beat(at + 1, [BASE], edges).heartbeatMs);
  expect([told[0], told[199]]).toEqual([HEARTBEAT_MS, 10_000]);
});

test('after a restart whose parent does not come back joins all the same', () => {
  root = startRoot();
  const edges = [{ table: BASE.table, from: host(9).id, bytes: 5, latencyMs: 1 }];
  expect(beat(1, [BASE], edges)).toMatchObject({ unknown: [], heartbeatMs: HEARTBEAT_MS });
  nowMs += LONGEST_BEAT_MS + 12 * HEARTBEAT_MS;
  expect(beat(1, [BASE], edges).unknown).toEqual([BASE]);
  expect(join(1)).toMatchObject([{ parent: null }]);
});

test('a name belongs to the address that it came with', () => {
  join(1);
  expect(() => root.join({ ...host(1), address: '10.9.9.9:1' }, [BASE])).toThrow(
    expect.objectContaining({ code: 'ERR_MESH_NAME_TAKEN' }),
  );
});

test('there is an end to members, trees and seats', () => {
  const full = expect.objectContaining({ code: 'ERR_MESH_FULL' });
  root = startRoot({ members: 2, trees: 2, seats: 3, seatsOfMember: 2 });
  join(1, IMAGE);
  expect(() => join(1, [{ blob: digestOf('x'), table: digestOf('y') }])).toThrow(full);
  join(2);
  expect(() => join(2, [TOP])).toThrow(full);
  expect(() => join(3)).toThrow(full);
  root.leave({ id: host(1).id, contents: [] });
  expect(join(3)).toHaveLength(1);
});

test('who is not in a tree cannot complain in it', () => {
  join(1);
  expect(() => lose(2, 1, 'slow')).toThrow(expect.objectContaining({ code: 'ERR_MESH_UNKNOWN_MEMBER' }));
});

import { expect, test } from 'vitest';
import { peerNamed } from '../../../test/support/scripted-peers.ts';
import { VirtualClock } from '../../../test/support/virtual-clock.ts';
import { digestOf } from '../../oci/digest.ts';
import type {
  Content,
  Heartbeat,
  HeartbeatAnswer,
  JoinAnswer,
  JoinRequest,
  Leave,
  Lost,
  Place,
} from '../mesh-protocol.ts';
import { rootOrder } from '../root-order.ts';
import { Membership } from './membership.ts';
import type { Where } from './mesh.ts';
import { RootError, type RootTransport } from './root-transport.ts';

const URLS = ['http://root-a/', 'http://root-b/'];
const WHERE = { registry: 'reg.example', repository: 'lib/app' };
const MEMBER = {
  id: '80000000'.repeat(4),
  address: '10.0.0.1:6011',
  zone: '',
  uploadBytesPerSecond: 125_000_000,
};
const CONTENTS = Array.from({ length: 8 }, (_, at): Content => {
  return { blob: digestOf(`blob ${at}`), table: digestOf(`table ${at}`) };
});
/** One whose tree is made by the first root as long as that is well. */
const CONTENT = CONTENTS.find(({ table }) => rootOrder(URLS, table)[0] === URLS[0])!;
const never = new AbortController().signal;

/** Roots that know who is where; a parent has the root's own letter. */
class Roots implements RootTransport {
  readonly asked: string[] = [];
  readonly down = new Set<string>();
  readonly silent = new Set<string>();
  /** Tables by root. */
  readonly known = new Map<string, Set<string>>();
  readonly beats: Heartbeat[] = [];
  readonly refused = new Set<string>();
  ticketEndsInMs = 600_000;
  heartbeatMs = 5_000;
  delayMs = 2;
  isForbidden = false;
  lostParent = 'x';
  readonly #clock: VirtualClock;

  constructor(clock: VirtualClock) {
    this.#clock = clock;
  }

  async join(root: string, _where: Where, request: JoinRequest, signal: AbortSignal): Promise<JoinAnswer> {
    await this.#ask(root, `join ${request.contents.length}`, signal);
    if (this.isForbidden) throw new RootError('ERR_ROOT_UNAUTHORIZED', 'log in first');
    const granted = request.contents.filter(({ table }) => !this.refused.has(table));
    for (const { table } of granted) this.#tables(root).add(table);
    return {
      places: granted.map((content) => this.#place(root, content)),
      refused: request.contents
        .filter(({ table }) => this.refused.has(table))
        .map((content) => ({ ...content, reason: 'not yours' })),
      session: `session of ${root}`,
      heartbeatMs: this.heartbeatMs,
    };
  }

  async heartbeat(
    root: string,
    session: string,
    beat: Heartbeat,
    signal: AbortSignal,
  ): Promise<HeartbeatAnswer> {
    await this.#ask(root, 'heartbeat', signal);
    expect(session).toBe(`session of ${root}`);
    this.beats.push(beat);
    const unknown = beat.contents.filter(({ table }) => !this.#tables(root).has(table));
    return { places: [], unknown, heartbeatMs: this.heartbeatMs };
  }

  async lost(root: string, _session: string, lost: Lost, signal: AbortSignal): Promise<Place> {
    await this.#ask(root, `lost ${lost.lost.charAt(0)} ${lost.reason}`, signal);
    if (!this.#tables(root).has(lost.table)) throw new RootError('ERR_ROOT_UNKNOWN_MEMBER', 'who?');
    return { ...this.#place(root, lost), parent: peerNamed(this.lostParent) };
  }

  async leave(root: string, _session: string, { contents }: Leave, signal: AbortSignal): Promise<void> {
    await this.#ask(root, `leave ${contents.length === 0 ? 'all' : contents.length}`, signal);
  }

  async keys(root: string, signal: AbortSignal): Promise<{ keys: [] }> {
    await this.#ask(root, 'keys', signal);
    return { keys: [] };
  }

  /** It was started anew. */
  forget(root: string): void {
    this.known.delete(root);
  }

  #tables(root: string): Set<string> {
    const tables = this.known.get(root) ?? new Set();
    this.known.set(root, tables);
    return tables;
  }

  async #ask(root: string, what: string, signal: AbortSignal): Promise<void> {
    this.asked.push(`${letterOf(root)} ${what}`);
    if (this.silent.has(root)) await this.#clock.sleep(60_000, signal);
    await this.#clock.sleep(this.delayMs, signal);
    if (this.down.has(root)) throw new RootError('ERR_ROOT_UNREACHABLE', 'nobody there');
  }

  #place(root: string, { blob, table }: Content): Place {
    const parent = peerNamed(letterOf(root));
    const { ticketEndsInMs } = this;
    return { blob, table, parent, alternates: [], depth: 2, ticket: 'a-ticket', ticketEndsInMs };
  }
}

function letterOf(root: string): string {
  return new URL(root).hostname.slice(-1);
}

function start(urls: readonly string[] = URLS): {
  clock: VirtualClock;
  roots: Roots;
  membership: Membership;
  troubles: string[];
} {
  const clock = new VirtualClock();
  const troubles: string[] = [];
  const roots = new Roots(clock);
  const membership = new Membership({
    ...{ member: MEMBER, roots: urls, transport: roots, clock },
    ...{ joinMs: 300, lingerMs: 60_000, onTrouble: (root) => troubles.push(letterOf(root)) },
  });
  return { clock, roots, membership, troubles };
}

/** Joined and opened. */
async function startJoined(): Promise<ReturnType<typeof start> & { seat: ReturnType<Membership['open']> }> {
  const parts = start();
  const seat = parts.membership.open(CONTENT);
  await parts.clock.run(parts.membership.join(WHERE, [CONTENT]));
  parts.roots.asked.length = 0;
  return { ...parts, seat };
}

const parentOf = (seat: { place: Place | null }) => seat.place?.parent?.id.charAt(0) ?? null;

test('all contents of an image are joined with one request to each root that is first for some', async () => {
  const { clock, roots, membership } = start();
  await clock.run(membership.join(WHERE, CONTENTS));
  const ofA = CONTENTS.filter(({ table }) => rootOrder(URLS, table)[0] === URLS[0]).length;
  expect(ofA).toBeGreaterThan(0);
  expect(ofA).toBeLessThan(8);
  expect(roots.asked).toEqual(expect.arrayContaining([`a join ${ofA}`, `b join ${8 - ofA}`]));
  expect(roots.asked.length).toBe(2);
  for (const seat of membership.seats) {
    expect(parentOf(seat)).toBe(letterOf(rootOrder(URLS, seat.content.table)[0]!));
  }
});

test('what has a seat is not joined again', async () => {
  const { clock, roots, membership } = await startJoined();
  await clock.run(membership.join(WHERE, [CONTENT]));
  expect(roots.asked).toEqual([]);
});

test('reads wait for the first place, but no longer than the budget for joining', async () => {
  const { clock, roots, membership } = start();
  void membership.join(WHERE, [CONTENT]);
  const seat = membership.seat(CONTENT);
  expect((await clock.run(seat.arrival(never)))?.parent?.id).toBe(peerNamed('a').id);
  expect(clock.now()).toBe(2);

  const other = start();
  other.roots.silent.add(URLS[0]!);
  void other.membership.join(WHERE, [CONTENT]);
  expect(await other.clock.run(other.membership.seat(CONTENT).arrival(never))).toBeNull();
  expect(other.clock.now()).toBe(300);
  expect(roots.asked).toEqual(['a join 1']);
});

test('reads wait for the mesh once, not again with each new attempt at roots that do not answer', async () => {
  const { clock, roots, membership } = start();
  for (const url of URLS) roots.silent.add(url);
  const seat = membership.open(CONTENT);
  await clock.run(membership.join(WHERE, [CONTENT]));
  let waitedMs = 0;
  for (let read = 0; read < 600; read++) {
    const startMs = clock.now();
    await clock.run(seat.arrival(never));
    waitedMs += clock.now() - startMs;
    await clock.run(clock.sleep(100));
  }
  expect(roots.asked.length).toBeGreaterThan(6);
  expect(waitedMs).toBe(0);
  for (const url of URLS) roots.silent.delete(url);
  await clock.run(clock.sleep(20_000));
  expect(seat.place).not.toBeNull();
});

test('a content that is refused is not asked for by each read of it', async () => {
  const { clock, roots, membership } = start();
  roots.refused.add(CONTENT.table);
  for (let read = 0; read < 200; read++) {
    await clock.run(membership.join(WHERE, [CONTENT]));
    await clock.run(clock.sleep(100));
  }
  // In 20 seconds: by a read or a heartbeat, each 5 seconds apart.
  expect(roots.asked.length).toBeLessThan(12);
  roots.refused.clear();
  await clock.run(clock.sleep(6_000));
  await clock.run(membership.join(WHERE, [CONTENT]));
  expect(membership.seat(CONTENT).place).not.toBeNull();
});

test('when a root does not answer the next one is asked', async () => {
  const { clock, roots, membership } = start();
  roots.down.add(URLS[0]!);
  await clock.run(membership.join(WHERE, [CONTENT]));
  expect(roots.asked).toEqual(['a join 1', 'b join 1']);
  expect(parentOf(membership.seat(CONTENT))).toBe('b');
  expect(membership.roots.map(({ lastError }) => lastError)).toEqual(['nobody there', null]);
});

test('when no root answers the join is tried again every few seconds', async () => {
  const { clock, roots, membership } = start();
  for (const url of URLS) roots.down.add(url);
  await clock.run(membership.join(WHERE, [CONTENT]));
  expect(membership.seat(CONTENT).place).toBeNull();
  roots.down.clear();
  await clock.run(clock.sleep(6_000));
  expect(parentOf(membership.seat(CONTENT))).toBe('a');
});

test('heartbeats come in time and name all that the member is in', async () => {
  const { clock, roots } = await startJoined();
  await clock.run(clock.sleep(15_000));
  expect(roots.asked).toEqual(['a heartbeat', 'a heartbeat', 'a heartbeat']);
  expect(roots.beats.at(-1)).toEqual({ member: MEMBER, contents: [CONTENT], edges: [] });
});

test('a root says how often it wants to hear of a member, and hears of it sooner after a failure', async () => {
  const { clock, roots } = await startJoined();
  roots.heartbeatMs = 50_000;
  await clock.run(clock.sleep(3_000));
  expect(roots.asked).toEqual(['a heartbeat']);
  await clock.run(clock.sleep(49_000));
  expect(roots.asked).toEqual(['a heartbeat']);
  roots.down.add(URLS[0]!);
  await clock.run(clock.sleep(1_000));
  roots.down.clear();
  await clock.run(clock.sleep(5_000));
  expect(roots.asked).toEqual(['a heartbeat', 'a heartbeat', 'a heartbeat']);
});

test('the only root is not asked again and again while it is late', async () => {
  const { clock, roots, membership, troubles } = start(URLS.slice(0, 1));
  roots.delayMs = 20_000;
  const seat = membership.open(CONTENT);
  await clock.run(membership.join(WHERE, [CONTENT]));
  expect(roots.asked).toEqual(['a join 1']);
  expect(parentOf(seat)).toBe('a');
  roots.asked.length = 0;
  await clock.run(seat.lose(peerNamed('a'), 'slow'));
  await clock.run(clock.sleep(60_000));
  // Each heartbeat is answered after 20 seconds, and the next one comes five later.
  expect(roots.asked.filter((what) => what.includes('heartbeat')).length).toBeLessThanOrEqual(4);
  expect(roots.asked.filter((what) => !what.includes('heartbeat'))).toEqual(['a lost a slow']);
  expect(parentOf(seat)).toBe('x');
  expect(troubles).toEqual([]);
  roots.asked.length = 0;
  roots.delayMs = 50_000;
  await clock.run(clock.sleep(240_000));
  // In vain for 30 seconds, and as long a rest.
  expect(roots.asked.filter((what) => what.includes('heartbeat')).length).toBeLessThanOrEqual(5);
  expect(troubles).toEqual(['a']);
});

test('a root that wants to hear of a member sooner than before does', async () => {
  const { clock, roots, membership } = await startJoined();
  roots.heartbeatMs = 100_000;
  await clock.run(clock.sleep(10_000));
  roots.asked.length = 0;
  roots.heartbeatMs = 5_000;
  const [another] = CONTENTS.filter((content) => {
    return content !== CONTENT && rootOrder(URLS, content.table)[0] === URLS[0];
  });
  await clock.run(membership.join(WHERE, [another!]));
  await clock.run(clock.sleep(5_000));
  expect(roots.asked).toEqual(['a join 1', 'a heartbeat']);
});

test('a root that was restarted is joined again, and the place stays until it has answered', async () => {
  const { clock, roots, seat } = await startJoined();
  roots.forget(URLS[0]!);
  await clock.run(clock.sleep(5_000));
  expect(roots.asked).toEqual(['a heartbeat', 'a join 1']);
  expect(parentOf(seat)).toBe('a');
});

test('when a root fails its trees are joined at the next one, and again at the first when that is well', async () => {
  const { clock, roots, seat } = await startJoined();
  roots.down.add(URLS[0]!);
  await clock.run(clock.sleep(12_000));
  expect(roots.asked.slice(0, 3)).toEqual(['a heartbeat', 'a heartbeat', 'b join 1']);
  expect(parentOf(seat)).toBe('b');
  roots.down.clear();
  roots.asked.length = 0;
  await clock.run(clock.sleep(31_000));
  expect(roots.asked).toEqual(expect.arrayContaining(['a join 1', 'b leave 1']));
  expect(parentOf(seat)).toBe('a');
});

test('a root that is away for long is told of once', async () => {
  const { clock, roots, troubles } = await startJoined();
  for (const url of URLS) roots.down.add(url);
  await clock.run(clock.sleep(600_000));
  expect(troubles.toSorted()).toEqual(['a', 'b']);
  roots.down.clear();
  await clock.run(clock.sleep(60_000));
  roots.down.add(URLS[0]!);
  await clock.run(clock.sleep(60_000));
  expect(troubles.toSorted()).toEqual(['a', 'a', 'b']);
});

test('a lost parent is reported once, however many runs lost it, and the new place is taken', async () => {
  const { clock, roots, seat } = await startJoined();
  const lost = Array.from({ length: 3 }, () => seat.lose(peerNamed('a'), 'unreachable'));
  await clock.run(Promise.all(lost));
  expect(roots.asked).toEqual(['a lost a unreachable']);
  expect(parentOf(seat)).toBe('x');
});

test('if the root is lost too, or has forgotten the member, a join gives the new place', async () => {
  const { clock, roots, seat } = await startJoined();
  roots.forget(URLS[0]!);
  await clock.run(seat.lose(peerNamed('a'), 'slow'));
  expect(roots.asked).toEqual(['a lost a slow', 'a join 1']);
  roots.asked.length = 0;
  roots.down.add(URLS[0]!);
  await clock.run(seat.lose(peerNamed('a'), 'slow'));
  expect(roots.asked.slice(0, 2)).toEqual(['a lost a slow', 'b join 1']);
  expect(parentOf(seat)).toBe('b');
});

test('a root that says nothing costs a lost parent no more than 1.5 s', async () => {
  const { clock, roots, seat } = await startJoined();
  const startMs = clock.now();
  roots.silent.add(URLS[0]!);
  await clock.run(seat.lose(peerNamed('a'), 'slow'));
  expect(clock.now() - startMs).toBe(1_502);
  expect(parentOf(seat)).toBe('b');
});

test('a ticket that has ended is not used, and another one is got', async () => {
  const { clock, roots, membership } = start();
  roots.ticketEndsInMs = 4_000;
  await clock.run(membership.join(WHERE, [CONTENT]));
  const seat = membership.seat(CONTENT);
  await clock.run(clock.sleep(1_000));
  expect(seat.place).not.toBeNull();
  roots.ticketEndsInMs = 600_000;
  await clock.run(clock.sleep(3_100));
  expect(seat.place).toBeNull();
  await clock.run(clock.sleep(4_000));
  expect(seat.place).not.toBeNull();
});

test('a content that the root refuses has no place, and is not asked for again until somebody joins', async () => {
  const { clock, roots, seat, membership } = await startJoined();
  roots.refused.add(CONTENT.table);
  roots.forget(URLS[0]!);
  await clock.run(clock.sleep(20_000));
  expect(roots.asked).toEqual(['a heartbeat', 'a join 1']);
  expect([seat.place, seat.refusal]).toEqual([null, 'not yours']);
  roots.refused.clear();
  await clock.run(membership.join(WHERE, [CONTENT]));
  expect(parentOf(seat)).toBe('a');
});

test('credentials that do not do are not tried at the next root', async () => {
  const { clock, roots, membership } = start();
  roots.isForbidden = true;
  await clock.run(membership.join(WHERE, [CONTENT]));
  expect(roots.asked).toEqual(['a join 1']);
  expect(membership.seat(CONTENT).refusal).toBe('log in first');
});

test('a content that nobody has open is left after a while', async () => {
  const { clock, roots, seat, membership } = await startJoined();
  await clock.run(clock.sleep(100_000));
  membership.shut(seat);
  await clock.run(clock.sleep(50_000));
  expect(roots.asked).not.toContain('a leave 1');
  await clock.run(clock.sleep(16_000));
  expect(roots.asked).toContain('a leave 1');
  expect([...membership.seats]).toEqual([]);
});

test('who closes leaves all trees, and no root can hold that up', async () => {
  const { clock, roots, membership } = await startJoined();
  const startMs = clock.now();
  roots.silent.add(URLS[0]!);
  await clock.run(membership.close());
  expect(roots.asked).toEqual(['a leave all']);
  expect(clock.now() - startMs).toBe(1_000);
});

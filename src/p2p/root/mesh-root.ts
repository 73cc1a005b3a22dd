import {
  type Announcement,
  type Content,
  contentKey,
  type Heartbeat,
  type HeartbeatAnswer,
  type JoinAnswer,
  type Leave,
  type Lost,
  type Peer,
  type Place,
  type RootKeys,
} from '../mesh-protocol.ts';
import { issueTicket } from '../tickets.ts';
import { slotsFor } from '../topology/slots.ts';
import { Tree } from '../topology/tree.ts';
import { Complaints, SUSPECT_MS } from './complaints.ts';
import { type Member, Members } from './members.ts';
import { type MeshOverview, type MeshTree, overviewOf, treeOf } from './mesh-overview.ts';
import { MeshRootError } from './mesh-root-error.ts';
import { Rebuilding } from './rebuilding.ts';
import { noCounts, type RootCounts } from './root-counts.ts';
import type { RootKey } from './root-key.ts';
import { DEFAULT_LIMITS, type RootLimits, type TreeSettings } from './root-limits.ts';
import { type ContentTree, countEdge, type Seat } from './seats.ts';

const ALTERNATES = 3;
const SILENT_BEATS = 3;
/**
 * When so many, and most of all members, seem to be silent at once, it is rather the root that cannot hear: it has too much to
 * do, or its network has failed. Each has three heartbeats' time from then on, and so many in all: their trees are better than
 * none, and who is really gone is complained about.
 */
const MANY_SILENT = 8;
const SILENT_BEATS_OF_MANY = 12;
/** Silent for so many, one word against a member is enough. */
const QUIET_BEATS = 1.5;
/** Of a large mesh: one heartbeat comes every so many milliseconds. */
const BEAT_OF_MEMBER_MS = 50;
/** Tickets are renewed by heartbeats. */
const MAX_BEAT_MS = 120_000;
const MAX_WAIT_MS = 20_000;
const MAX_SWEEP_MS = 1_000;
const TICKET_MS = 10 * 60_000;
const SESSION_MS = 24 * 60 * 60_000;
/** How long the right to a content is taken for granted that was shown by a join. */
const RIGHT_MS = 60 * 60_000;

export interface MeshRootOptions {
  readonly settings: TreeSettings;
  readonly key: RootKey;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly limits?: RootLimits;
}

/**
 * The root of the mesh: who is in which tree, as long as they say so. All of it is lost in a restart, and comes back from the
 * members' heartbeats. Whether a caller may read, and who it is, has been found out before.
 */
export class MeshRoot {
  readonly counts: RootCounts = noCounts();
  readonly #settings: TreeSettings;
  readonly #key: RootKey;
  readonly #now: () => number;
  readonly #limits: RootLimits;
  readonly #members: Members;
  readonly #trees = new Map<string, ContentTree>();
  readonly #complaints = new Complaints();
  readonly #rebuilding: Rebuilding;
  #seats = 0;
  #sweptAtMs = Number.NEGATIVE_INFINITY;
  /** When most members seemed to be silent last. */
  #deafAtMs = Number.NEGATIVE_INFINITY;

  constructor({ settings, key, now, limits = DEFAULT_LIMITS }: MeshRootOptions) {
    this.#settings = settings;
    this.#members = new Members(settings.heartbeatMs);
    this.#key = key;
    this.#now = now;
    this.#limits = limits;
    this.#rebuilding = new Rebuilding(now(), MAX_BEAT_MS, settings.heartbeatMs, limits.seats);
  }

  /** What tickets of this root are checked with. */
  publicKeys(): RootKeys {
    return this.#key.publicKeys();
  }

  /** The member that a session was given to. @throws TokenError */
  memberOf(session: string): string {
    return this.#key.memberOf(session, this.#now());
  }

  /**
   * A member joins the trees of contents that it may read; where it stands already it stays.
   * @throws MeshRootError ERR_MESH_FULL, ERR_MESH_NAME_TAKEN
   */
  join(announcement: Announcement, contents: readonly Content[]): Omit<JoinAnswer, 'refused'> {
    const { id } = announcement;
    const nowMs = this.#sweep(id);
    const known = this.#members.get(id);
    if (known !== undefined && known.announcement.address !== announcement.address) {
      throw new MeshRootError('ERR_MESH_NAME_TAKEN', `${id} is at ${known.announcement.address}`);
    }
    if (known === undefined && this.#members.size >= this.#limits.members) {
      throw new MeshRootError('ERR_MESH_FULL', `there are ${this.#members.size} members`);
    }
    const session = this.#key.session(id, nowMs + SESSION_MS);
    // Who may have nothing is no member.
    if (contents.length === 0) return { places: [], session, heartbeatMs: this.#settings.heartbeatMs };
    const member = this.#seen(announcement, nowMs);
    const heartbeatMs = this.#nextBeatMs(member);
    const places = contents.map((content) => {
      const seat = member.seats.get(contentKey(content)) ?? this.#sit(member, content, nowMs);
      seat.rightEndsAtMs = nowMs + RIGHT_MS;
      return this.#place(id, seat, nowMs);
    });
    this.counts.joins += 1;
    return { places, session, heartbeatMs };
  }

  /** The member is there. It leaves what it does not name. */
  heartbeat(beat: Heartbeat): HeartbeatAnswer {
    const { member: announcement, contents, edges } = beat;
    const { id } = announcement;
    const nowMs = this.#sweep(id);
    const places: Place[] = [];
    const unknown: Content[] = [];
    // Who is in no tree is no member: it is told to join.
    const member = this.#members.get(id);
    if (member !== undefined) this.#seen(announcement, nowMs);
    for (const content of contents) {
      const seat = member?.seats.get(contentKey(content));
      if (seat === undefined) {
        const tree = this.#trees.get(contentKey(content))?.tree;
        const isInTree = (other: string) => tree?.has(other) ?? false;
        if (this.#rebuilding.isToJoin(beat, content, isInTree, nowMs)) unknown.push(content);
        continue;
      }
      if (nowMs >= seat.rightEndsAtMs) unknown.push(content);
      else if (this.#isToBeTold(id, seat, nowMs)) places.push(this.#place(id, seat, nowMs));
    }
    if (member === undefined) return { places, unknown, heartbeatMs: this.#waitMs() };
    const seatByTable = new Map([...member.seats.values()].map((seat) => [seat.of.content.table, seat]));
    for (const edge of edges) {
      const seat = seatByTable.get(edge.table);
      if (seat === undefined) continue;
      countEdge(seat, edge);
      this.counts.received[edge.from === null ? 'proxies' : 'peers'] += edge.bytes;
    }
    this.#leaveAllBut(id, member, contents, nowMs);
    return { places, unknown, heartbeatMs: this.#nextBeatMs(member) };
  }

  /**
   * A member has left a parent or an alternate, and gets another place.
   * @throws MeshRootError ERR_MESH_UNKNOWN_MEMBER
   */
  lost({ id, blob, table, lost, reason }: Lost): Place {
    const nowMs = this.#sweep(id);
    const member = this.#members.get(id);
    const seat = member?.seats.get(contentKey({ blob, table }));
    if (member === undefined || seat === undefined) throw unknownMember(id);
    const { told } = seat;
    seat.lostAtMs = nowMs;
    seat.of.tree.move(id, lost);
    this.counts.repairs.lost += 1;
    // About others than those that it was sent to it can say nothing.
    if (told.parent === lost || told.alternates.includes(lost)) this.#accuse(id, lost, reason, nowMs);
    return this.#place(id, seat, nowMs);
  }

  /** Those who are in no tree may leave, too. */
  leave({ id, contents }: Leave): void {
    this.#sweep(id);
    const member = this.#members.get(id);
    if (member === undefined) return;
    const keys = contents.length === 0 ? [...member.seats.keys()] : contents.map(contentKey);
    for (const key of keys) this.#stand(id, member, key, 'left');
    if (member.seats.size === 0) this.#forget(id);
  }

  /** For people: how many, how deep. */
  overview(): MeshOverview {
    this.#sweep();
    return overviewOf(this.#members.size, [...this.#trees.values()], this.counts);
  }

  /** Children of the member that has most in one tree. It takes time by seats. */
  fanOut(): number {
    return [...this.#trees.values()].reduce((most, { tree }) => Math.max(most, tree.fanOut), 0);
  }

  /** For people: whole trees, member by member. */
  trees(isWanted: (content: Content) => boolean): MeshTree[] {
    const nowMs = this.#sweep();
    const wanted = [...this.#trees.values()].filter(({ content }) => isWanted(content));
    const view = {
      member: (id: string) => this.#members.get(id),
      isSuspected: (id: string) => this.#complaints.isSuspected(id),
      isSilent: (member: Member) => isQuiet(member, nowMs),
    };
    return wanted.map((tree) => treeOf(tree, view));
  }

  #seen(announcement: Announcement, nowMs: number): Member {
    const { id, zone } = announcement;
    const before = this.#members.get(id)?.announcement;
    const member = this.#members.seen(announcement, nowMs);
    const isSame = before?.zone === zone && before.uploadBytesPerSecond === announcement.uploadBytesPerSecond;
    if (!isSame) this.#resize(id);
    return member;
  }

  /** Gives a member the slots that it is worth in all of its trees. */
  #resize(id: string): void {
    const member = this.#members.get(id);
    if (member === undefined) return;
    for (const { of } of member.seats.values()) of.tree.update(this.#treeMember(member));
  }

  #treeMember({ announcement: { id, zone, uploadBytesPerSecond } }: Member) {
    const isSuspected = this.#complaints.isSuspected(id);
    return { id, zone, slots: isSuspected ? 0 : slotsFor(uploadBytesPerSecond, this.#settings) };
  }

  #sit(member: Member, content: Content, nowMs: number): Seat {
    const key = contentKey(content);
    const { trees, seats, seatsOfMember } = this.#limits;
    const isNew = !this.#trees.has(key);
    if (this.#seats >= seats || member.seats.size >= seatsOfMember || (isNew && this.#trees.size >= trees)) {
      throw new MeshRootError('ERR_MESH_FULL', `there are ${this.#seats} seats in ${this.#trees.size} trees`);
    }
    const of = this.#trees.get(key) ?? { content, tree: new Tree(this.#settings), seats: new Map() };
    const { id } = member.announcement;
    const seat: Seat = {
      ...{ of, joinedAtMs: nowMs, rightEndsAtMs: nowMs, ticket: null },
      ...{ told: { parent: null, alternates: [] }, lostAtMs: Number.NEGATIVE_INFINITY, edges: new Map() },
    };
    of.tree.join(this.#treeMember(member), this.#rebuilding.parentOf(id, content));
    of.seats.set(id, seat);
    member.seats.set(key, seat);
    this.#trees.set(key, of);
    this.#seats += 1;
    return seat;
  }

  #stand(id: string, member: Member, key: string, why: 'left' | 'silent'): void {
    const seat = member.seats.get(key);
    if (seat === undefined) return;
    const { tree, seats } = seat.of;
    if (tree.placeOf(id)?.children.length !== 0) this.counts.repairs[why] += 1;
    tree.leave(id);
    seats.delete(id);
    member.seats.delete(key);
    this.#seats -= 1;
    if (seats.size === 0) this.#trees.delete(key);
  }

  #leaveAllBut(id: string, member: Member, contents: readonly Content[], nowMs: number): void {
    const named = new Set(contents.map(contentKey));
    for (const [key, seat] of member.seats) {
      // The answer to a join may have crossed this heartbeat.
      const isOld = nowMs - seat.joinedAtMs > this.#settings.heartbeatMs;
      if (!named.has(key) && isOld) this.#stand(id, member, key, 'left');
    }
  }

  #isToBeTold(id: string, { of: { tree }, told, ticket, lostAtMs }: Seat, nowMs: number): boolean {
    // Who was slow or silent once may be well again.
    if (lostAtMs + SUSPECT_MS <= nowMs) tree.forgive(id);
    const parent = tree.placeOf(id)?.parent ?? null;
    if (parent !== told.parent || ticket === null || ticket.endsAtMs - nowMs < TICKET_MS / 2) return true;
    if (told.alternates.some((other) => !tree.has(other))) return true;
    return told.alternates.length < ALTERNATES && this.#alternates(id, tree).length > told.alternates.length;
  }

  #place(id: string, seat: Seat, nowMs: number): Place {
    const { content, tree } = seat.of;
    const { parent, depth } = tree.placeOf(id)!;
    if (seat.ticket === null || seat.ticket.endsAtMs - nowMs < TICKET_MS / 2) {
      const endsAtMs = nowMs + TICKET_MS;
      seat.ticket = { text: issueTicket({ ...content, member: id, endsAtMs }, this.#key), endsAtMs };
    }
    const alternates = parent === null ? [] : this.#alternates(id, tree);
    seat.told = { parent, alternates: alternates.map((other) => other.id) };
    return {
      ...content,
      parent: parent === null ? null : this.#members.peer(parent),
      alternates,
      depth,
      ticket: seat.ticket.text,
      ticketEndsInMs: seat.ticket.endsAtMs - nowMs,
    };
  }

  #alternates(id: string, tree: Tree): Peer[] {
    return tree.alternatesOf(id, ALTERNATES).flatMap((other) => this.#members.peer(other) ?? []);
  }

  #accuse(reporter: string, accused: string, reason: Lost['reason'], nowMs: number): void {
    const member = this.#members.get(accused);
    // Who refuses has too much to do, and says so.
    if (member === undefined || reason === 'refused') return;
    if (reason === 'wrong-bytes') {
      member.wrongBytes += 1;
      this.counts.wrongBytes += 1;
    }
    if (reason === 'unreachable' && isQuiet(member, nowMs)) {
      this.#drop(accused, member);
      return;
    }
    for (const id of this.#complaints.add(reporter, accused, nowMs)) {
      this.counts.suspected += 1;
      this.counts.repairs.suspected += this.#members.get(id)?.seats.size ?? 0;
      this.#resize(id);
    }
  }

  /**
   * Takes out who has been silent too long, and trusts again who has been suspected long enough. Returns the time.
   * @param speaker is not silent, however long the root has not listened
   */
  #sweep(speaker?: string): number {
    const nowMs = this.#now();
    const { heartbeatMs } = this.#settings;
    const heard = speaker === undefined ? undefined : this.#members.get(speaker);
    if (heard !== undefined) this.#members.seen(heard.announcement, nowMs);
    if (nowMs - this.#sweptAtMs >= Math.min(heartbeatMs / 2, MAX_SWEEP_MS)) {
      this.#sweptAtMs = nowMs;
      const silent = this.#members.silentFor(SILENT_BEATS, nowMs, heartbeatMs);
      if (silent.length >= MANY_SILENT && silent.length > this.#members.size / 2) this.#deafAtMs = nowMs;
      for (const member of silent)
        if (this.#isGone(member, nowMs)) this.#drop(member.announcement.id, member);
    }
    for (const id of this.#complaints.cleared(nowMs)) this.#resize(id);
    return nowMs;
  }

  #isGone({ seenAtMs, heartbeatMs }: Member, nowMs: number): boolean {
    const silentMs = nowMs - seenAtMs;
    if (silentMs >= SILENT_BEATS_OF_MANY * heartbeatMs) return true;
    return Math.min(silentMs, nowMs - this.#deafAtMs) >= SILENT_BEATS * heartbeatMs;
  }

  /** When one that waits for its parent to come back is to ask again. */
  #waitMs(): number {
    const ms = Math.min(this.#rebuilding.waiting * BEAT_OF_MEMBER_MS, MAX_WAIT_MS);
    return Math.max(this.#settings.heartbeatMs, ms);
  }

  /** When the member is to be heard of next: all heartbeats together take but a small part of the root's time. */
  #nextBeatMs(member: Member): number {
    const ms = Math.min(this.#members.size * BEAT_OF_MEMBER_MS, MAX_BEAT_MS);
    member.heartbeatMs = Math.max(this.#settings.heartbeatMs, ms);
    return member.heartbeatMs;
  }

  #drop(id: string, member: Member): void {
    for (const key of [...member.seats.keys()]) this.#stand(id, member, key, 'silent');
    this.#forget(id);
  }

  #forget(id: string): void {
    this.#members.remove(id);
    this.#complaints.forget(id);
  }
}

function isQuiet({ seenAtMs, heartbeatMs }: Member, nowMs: number): boolean {
  return nowMs - seenAtMs > QUIET_BEATS * heartbeatMs;
}

function unknownMember(id: string): MeshRootError {
  return new MeshRootError('ERR_MESH_UNKNOWN_MEMBER', `${id} is not in that tree: join it again`);
}

import type { Digest } from '../../oci/digest.ts';
import {
  type Announcement,
  type Content,
  contentKey,
  type JoinAnswer,
  type Lost,
  MAX_JOINED,
  type Peer,
  type Place,
} from '../mesh-protocol.ts';
import type { Clock } from './clock.ts';
import type { Where } from './mesh.ts';
import { type RootState, RootStates } from './root-states.ts';
import { RootError, type RootTransport } from './root-transport.ts';
import { Seat } from './seat.ts';
import { withinMs } from './time-limit.ts';

export interface MembershipParts {
  readonly member: Announcement;
  /** URLs. */
  readonly roots: readonly string[];
  readonly transport: RootTransport;
  readonly clock: Clock;
  /** How long reads wait for the first place. */
  readonly joinMs: number;
  /** How long a content that nobody has open is kept. */
  readonly lingerMs: number;
  /** Told of each new place. */
  readonly onPlace?: (place: Place) => void;
  /** Told when a root fails that was well before: the status tells the rest. */
  readonly onTrouble: (root: string, error: unknown) => void;
}

/** Of a root that failed; and how often the seats are looked over, if no root wants to hear of them more often. */
const HEARTBEAT_MS = 5_000;
/** A root may have to ask a registry whether the member may read, or have many hosts to answer at once. */
const JOIN_MS = 10_000;
const BEAT_MS = 10_000;
const CALL_MS = 1_500;
/** A root that has too much to do is not helped by being asked again, and if there is no other one, nobody is. */
const ONLY_ROOT_MS = 30_000;
const CLOSE_MS = 1_000;
/** Heartbeats that fail, one after the other, before its trees are joined elsewhere. */
const FAILED_BEATS = 2;
/** So often the seats are looked over before it is tried to go back to the root that comes first. */
const RETURN_ROUNDS = 6;

/** A member's seats in all trees: joined, kept up by heartbeats, moved to other roots when one fails. */
export class Membership {
  readonly #parts: MembershipParts;
  readonly #seats = new Map<string, Seat>();
  readonly #roots: RootStates;
  readonly #closed = new AbortController();
  #rounds = 0;
  #isTending = false;

  constructor(parts: MembershipParts) {
    this.#parts = parts;
    this.#roots = new RootStates(parts.roots, parts.clock, HEARTBEAT_MS, parts.onTrouble);
  }

  get seats(): Iterable<Seat> {
    return this.#seats.values();
  }

  get roots(): readonly { readonly url: string; readonly lastError: string | null }[] {
    return this.#roots.all.map(({ url, lastError }) => ({ url, lastError }));
  }

  /** Takes seats in the trees of all these contents; those that it has stay. Resolves when the answers are in. */
  async join(where: Where, contents: readonly Content[]): Promise<void> {
    if (this.#closed.signal.aborted) return;
    const standing: Seat[] = [];
    for (const content of contents) {
      const seat = this.seat(content);
      seat.where = where;
      seat.refusal = null;
      if (seat.openings === 0) seat.idleSinceMs = this.#parts.clock.now();
      if (seat.isToJoin) standing.push(seat);
    }
    await this.#sit(standing);
    void this.#tend();
  }

  /** The seat for a content, joined or not. */
  seat(content: Content): Seat {
    const key = contentKey(content);
    let seat = this.#seats.get(key);
    if (seat === undefined) {
      const { clock, joinMs } = this.#parts;
      const lose = (from: Seat, lost: Peer, reason: Lost['reason']) => this.#lose(from, lost, reason);
      seat = new Seat({ content, clock, joinMs, lose });
      this.#seats.set(key, seat);
    }
    return seat;
  }

  /** Whether the host is in, or about to be in, the tree of this table. */
  isIn(table: Digest): boolean {
    for (const { content, where } of this.#seats.values()) {
      if (where !== null && content.table === table) return true;
    }
    return false;
  }

  open(content: Content): Seat {
    const seat = this.seat(content);
    seat.openings++;
    return seat;
  }

  shut(seat: Seat): void {
    if (--seat.openings === 0) seat.idleSinceMs = this.#parts.clock.now();
  }

  /** Leaves all trees. */
  async close(): Promise<void> {
    this.#closed.abort();
    const { clock, transport, member } = this.#parts;
    const leave = { id: member.id, contents: [] };
    const leaving = this.#roots.all.map(async ({ url, session }) => {
      if (session === null) return;
      const never = new AbortController().signal;
      await withinMs(clock, CLOSE_MS, never, (signal) => transport.leave(url, session, leave, signal));
    });
    // Who does not hear of it notices the silence.
    await Promise.allSettled(leaving);
    this.#seats.clear();
  }

  /** Joins, at the first root of each content's order that answers. Never rejects. */
  #sit(seats: readonly Seat[]): Promise<void> {
    if (seats.length === 0) return Promise.resolve();
    const sitting = this.#sitAt(new Map(seats.map((seat) => [seat, this.#roots.order(seat.content.table)])));
    for (const seat of seats) seat.join(sitting);
    return sitting;
  }

  async #sitAt(orders: ReadonlyMap<Seat, readonly string[]>): Promise<void> {
    const standing = new Map(orders);
    while (standing.size > 0 && !this.#closed.signal.aborted) {
      const groups = new Map<string, { root: string; where: Where; seats: Seat[] }>();
      for (const [seat, [root, ...others]] of standing) {
        standing.set(seat, others);
        if (root === undefined || seat.where === null) {
          standing.delete(seat);
          continue;
        }
        const { registry, repository } = seat.where;
        const key = `${root} ${registry} ${repository}`;
        let group = groups.get(key);
        if (group === undefined || group.seats.length === MAX_JOINED) {
          // One that is full stays, by another name.
          if (group !== undefined) groups.set(`${key} ${groups.size}`, group);
          group = { root, where: seat.where, seats: [] };
          groups.set(key, group);
        }
        group.seats.push(seat);
      }
      await Promise.all(
        [...groups.values()].map(async ({ root, where, seats }) => {
          const isAnswered = await this.#joinAt(root, where, seats);
          if (isAnswered) for (const seat of seats) standing.delete(seat);
        }),
      );
    }
  }

  /** Whether there is no use in asking other roots. */
  async #joinAt(root: string, where: Where, seats: readonly Seat[]): Promise<boolean> {
    const { clock, transport, member } = this.#parts;
    const request = { member, contents: seats.map(({ content }) => content) };
    try {
      const answer = await withinMs(clock, this.#patienceMs(JOIN_MS), this.#closed.signal, (signal) =>
        transport.join(root, where, request, signal),
      );
      this.#joined(root, seats, answer);
      return true;
    } catch (error) {
      if (this.#closed.signal.aborted) return true;
      if (!(error instanceof RootError) || error.code !== 'ERR_ROOT_UNAUTHORIZED') {
        this.#roots.failed(root, error);
        return false;
      }
      for (const seat of seats) seat.refusal = error.message;
      return true;
    }
  }

  #joined(root: string, seats: readonly Seat[], { places, refused, session, heartbeatMs }: JoinAnswer): void {
    const state = this.#roots.of(root);
    state.session = session;
    this.#roots.isWell(state);
    const isSooner = heartbeatMs < state.heartbeatMs;
    state.heartbeatMs = heartbeatMs;
    if (state.hurry === null) void this.#keepUp(state);
    else if (isSooner) state.hurry();
    const before = new Map(seats.map((seat) => [seat, seat.root]));
    for (const place of places) this.#take(this.#seats.get(contentKey(place)), root, place);
    for (const { reason, ...content } of refused) {
      const seat = this.#seats.get(contentKey(content));
      seat?.refuse(reason);
    }
    for (const [seat, old] of before) {
      if (old !== null && seat.root !== null && seat.root !== old) void this.#leave(old, [seat.content]);
    }
  }

  #take(seat: Seat | undefined, root: string, place: Place): void {
    seat?.take(root, place);
    this.#parts.onPlace?.(place);
  }

  async #lose(seat: Seat, { id: lost }: Peer, reason: Lost['reason']): Promise<void> {
    const { clock, transport, member } = this.#parts;
    const { root } = seat;
    const session = root === null ? null : this.#roots.of(root).session;
    if (root === null || session === null || this.#closed.signal.aborted) return;
    const report = { id: member.id, ...seat.content, lost, reason };
    try {
      const place = await withinMs(clock, this.#patienceMs(CALL_MS), this.#closed.signal, (signal) =>
        transport.lost(root, session, report, signal),
      );
      if (seat.root === root) this.#take(seat, root, place);
    } catch (error) {
      if (this.#closed.signal.aborted) return;
      if (!isForgotten(error)) this.#roots.failed(root, error);
      await (seat.joining ?? this.#sit([seat]));
    }
  }

  /** Until another root is worth being asked. */
  #patienceMs(ms: number): number {
    return this.#parts.roots.length === 1 ? ONLY_ROOT_MS : ms;
  }

  /** Members that start at the same time do nothing at the same time; and always alike in a simulation. */
  get #phase(): number {
    return Number.parseInt(this.#parts.member.id.slice(0, 8), 16) / 2 ** 32;
  }

  /** Is heard of by a root until the member closes. */
  async #keepUp(state: RootState): Promise<void> {
    const { clock } = this.#parts;
    const closed = this.#closed.signal;
    let pauseMs = state.heartbeatMs * this.#phase;
    while (!closed.aborted) {
      const hurried = new AbortController();
      state.hurry = () => hurried.abort();
      try {
        await clock.sleep(pauseMs, AbortSignal.any([closed, hurried.signal]));
      } catch {
        pauseMs = state.heartbeatMs * this.#phase;
        continue;
      }
      const startMs = clock.now();
      await this.#beatAt(state);
      // One that takes long to fail has too much to do.
      const againMs = Math.max(Math.min(state.heartbeatMs, HEARTBEAT_MS), clock.now() - startMs);
      pauseMs = state.failedBeats === 0 ? state.heartbeatMs : againMs;
    }
  }

  /** Looks the seats over, again and again until the member closes. */
  async #tend(): Promise<void> {
    if (this.#isTending) return;
    this.#isTending = true;
    const { clock } = this.#parts;
    const roundMs = () => Math.min(HEARTBEAT_MS, ...this.#roots.all.map(({ heartbeatMs }) => heartbeatMs));
    try {
      await clock.sleep(roundMs() * this.#phase, this.#closed.signal);
      for (;;) {
        this.#tendOnce();
        await clock.sleep(roundMs(), this.#closed.signal);
      }
    } catch (error) {
      if (!this.#closed.signal.aborted) throw error;
    }
  }

  #tendOnce(): void {
    this.#rounds++;
    this.#leaveIdle();
    const standing: Seat[] = [];
    for (const seat of this.#seats.values()) {
      if (seat.where === null || seat.refusal !== null || seat.joining !== null) continue;
      if (seat.place === null || this.#isToReturn(seat)) standing.push(seat);
    }
    void this.#sit(standing);
  }

  async #beatAt(state: RootState): Promise<void> {
    const { clock, transport, member } = this.#parts;
    const { url: root, session } = state;
    const seats = [...this.#seats.values()].filter((seat) => seat.root === root);
    if (session === null || seats.length === 0) return;
    // What is not named is left: a join may be under way, and its answer behind this one.
    const named = [...this.#seats.values()].filter((seat) => seat.root === root || seat.joining !== null);
    const beat = { member, contents: named.map(({ content }) => content) };
    const edges = seats.flatMap((seat) => seat.edges.take(seat.content.table));
    try {
      const { places, unknown, heartbeatMs } = await withinMs(
        clock,
        this.#patienceMs(BEAT_MS),
        this.#closed.signal,
        (signal) => transport.heartbeat(root, session, { ...beat, edges }, signal),
      );
      this.#roots.isWell(state);
      state.heartbeatMs = heartbeatMs;
      for (const place of places) {
        const seat = this.#seats.get(contentKey(place));
        if (seat?.root === root) this.#take(seat, root, place);
      }
      this.#sitAgain(root, unknown);
    } catch (error) {
      if (this.#closed.signal.aborted) return;
      const isGone = isForgotten(error);
      if (!isGone) this.#roots.failed(root, error);
      state.failedBeats++;
      // Until there is a better one, the place stays: the parent may be well.
      const isToMove = state.failedBeats >= FAILED_BEATS && this.#parts.roots.length > 1;
      if (isGone || isToMove) this.#sitAgain(root, beat.contents);
    }
  }

  #sitAgain(root: string, contents: readonly Content[]): void {
    const seats = contents.flatMap((content) => this.#seats.get(contentKey(content)) ?? []);
    void this.#sit(seats.filter((seat) => seat.root === root && seat.joining === null));
  }

  /** Whether a root that comes earlier in the content's order may be well again. */
  #isToReturn({ root, content }: Seat): boolean {
    if (root === null || this.#rounds % RETURN_ROUNDS !== 0) return false;
    return this.#roots.isAnotherFirst(content.table, root);
  }

  #leaveIdle(): void {
    const nowMs = this.#parts.clock.now();
    const left = new Map<string, Content[]>();
    for (const [key, { openings, idleSinceMs, root, content }] of this.#seats) {
      if (openings > 0 || nowMs - idleSinceMs < this.#parts.lingerMs) continue;
      this.#seats.delete(key);
      if (root !== null) left.set(root, [...(left.get(root) ?? []), content]);
    }
    for (const [root, contents] of left) void this.#leave(root, contents);
  }

  async #leave(root: string, contents: Content[]): Promise<void> {
    const { clock, transport, member } = this.#parts;
    const { session } = this.#roots.of(root);
    if (session === null) return;
    try {
      await withinMs(clock, CALL_MS, this.#closed.signal, (signal) =>
        transport.leave(root, session, { id: member.id, contents }, signal),
      );
    } catch {
      // It is not in the next heartbeat, which says the same.
    }
  }
}

/** The root does not know the member any more: it answers, but has to be joined again. */
function isForgotten(error: unknown): boolean {
  if (!(error instanceof RootError)) return false;
  return error.code === 'ERR_ROOT_UNKNOWN_MEMBER' || error.code === 'ERR_ROOT_UNAUTHORIZED';
}

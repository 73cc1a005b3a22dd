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
import { rootOrder } from '../root-order.ts';
import type { Clock } from './clock.ts';
import type { Where } from './mesh.ts';
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

/** Until a root has said more. */
const HEARTBEAT_MS = 5_000;
/** A root may have to ask a registry whether the member may read. */
const JOIN_MS = 5_000;
const CALL_MS = 1_500;
const CLOSE_MS = 1_000;
/** A root that failed is asked after the others for so long. */
const REST_MS = 10_000;
/** Heartbeats that fail, one after the other, before its trees are joined elsewhere. */
const FAILED_BEATS = 2;
/** Heartbeats between attempts to go back to the root that comes first. */
const RETURN_BEATS = 6;

interface RootState {
  session: string | null;
  failedBeats: number;
  restsUntilMs: number;
  lastError: string | null;
}

/** A member's seats in all trees: joined, kept up by heartbeats, moved to other roots when one fails. */
export class Membership {
  readonly #parts: MembershipParts;
  readonly #seats = new Map<string, Seat>();
  readonly #roots: ReadonlyMap<string, RootState>;
  readonly #closed = new AbortController();
  #heartbeatMs = HEARTBEAT_MS;
  #beats = 0;
  #isBeating = false;

  constructor(parts: MembershipParts) {
    this.#parts = parts;
    const fresh = () => ({
      ...{ session: null, failedBeats: 0 },
      ...{ restsUntilMs: Number.NEGATIVE_INFINITY, lastError: null },
    });
    this.#roots = new Map(parts.roots.map((root) => [root, fresh()]));
  }

  get seats(): Iterable<Seat> {
    return this.#seats.values();
  }

  get roots(): readonly { readonly url: string; readonly lastError: string | null }[] {
    return [...this.#roots].map(([url, { lastError }]) => ({ url, lastError }));
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
    void this.#beat();
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
    const leaving = [...this.#roots].map(async ([root, { session }]) => {
      if (session === null) return;
      const never = new AbortController().signal;
      await withinMs(clock, CLOSE_MS, never, (signal) => transport.leave(root, session, leave, signal));
    });
    // Who does not hear of it notices the silence.
    await Promise.allSettled(leaving);
    this.#seats.clear();
  }

  /** Joins, at the first root of each content's order that answers. Never rejects. */
  #sit(seats: readonly Seat[]): Promise<void> {
    if (seats.length === 0) return Promise.resolve();
    const sitting = this.#sitAt(new Map(seats.map((seat) => [seat, this.#order(seat.content.table)])));
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
      const answer = await withinMs(clock, JOIN_MS, this.#closed.signal, (signal) =>
        transport.join(root, where, request, signal),
      );
      this.#joined(root, seats, answer);
      return true;
    } catch (error) {
      if (this.#closed.signal.aborted) return true;
      if (!(error instanceof RootError) || error.code !== 'ERR_ROOT_UNAUTHORIZED') {
        this.#trouble(root, error);
        return false;
      }
      for (const seat of seats) seat.refusal = error.message;
      return true;
    }
  }

  #joined(root: string, seats: readonly Seat[], { places, refused, session, heartbeatMs }: JoinAnswer): void {
    const state = this.#roots.get(root)!;
    state.session = session;
    this.#isWell(state);
    this.#heartbeatMs = heartbeatMs;
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
    const session = root === null ? null : this.#roots.get(root)!.session;
    if (root === null || session === null || this.#closed.signal.aborted) return;
    const report = { id: member.id, ...seat.content, lost, reason };
    try {
      const place = await withinMs(clock, CALL_MS, this.#closed.signal, (signal) =>
        transport.lost(root, session, report, signal),
      );
      if (seat.root === root) this.#take(seat, root, place);
    } catch (error) {
      if (this.#closed.signal.aborted) return;
      if (!isForgotten(error)) this.#trouble(root, error);
      await (seat.joining ?? this.#sit([seat]));
    }
  }

  /** Keeps the seats up until the member closes. */
  async #beat(): Promise<void> {
    if (this.#isBeating) return;
    this.#isBeating = true;
    const { clock, member } = this.#parts;
    // Members that start at the same time do not beat at the same time; and always alike in a simulation.
    const phase = Number.parseInt(member.id.slice(0, 8), 16) / 2 ** 32;
    try {
      await clock.sleep(this.#heartbeatMs * phase, this.#closed.signal);
      for (;;) {
        await this.#beatOnce();
        await clock.sleep(this.#heartbeatMs, this.#closed.signal);
      }
    } catch (error) {
      if (!this.#closed.signal.aborted) throw error;
    }
  }

  async #beatOnce(): Promise<void> {
    this.#beats++;
    this.#leaveIdle();
    await Promise.all(this.#parts.roots.map((root) => this.#beatAt(root)));
    const standing: Seat[] = [];
    for (const seat of this.#seats.values()) {
      if (seat.where === null || seat.refusal !== null || seat.joining !== null) continue;
      if (seat.place === null || this.#isToReturn(seat)) standing.push(seat);
    }
    // The next heartbeat does not wait for it.
    void this.#sit(standing);
  }

  async #beatAt(root: string): Promise<void> {
    const { clock, transport, member } = this.#parts;
    const state = this.#roots.get(root)!;
    const { session } = state;
    const seats = [...this.#seats.values()].filter((seat) => seat.root === root);
    if (session === null || seats.length === 0) return;
    // What is not named is left: a join may be under way, and its answer behind this one.
    const named = [...this.#seats.values()].filter((seat) => seat.root === root || seat.joining !== null);
    const beat = { member, contents: named.map(({ content }) => content) };
    const edges = seats.flatMap((seat) => seat.edges.take(seat.content.table));
    try {
      const { places, unknown } = await withinMs(clock, CALL_MS, this.#closed.signal, (signal) =>
        transport.heartbeat(root, session, { ...beat, edges }, signal),
      );
      this.#isWell(state);
      for (const place of places) {
        const seat = this.#seats.get(contentKey(place));
        if (seat?.root === root) this.#take(seat, root, place);
      }
      this.#sitAgain(root, unknown);
    } catch (error) {
      if (this.#closed.signal.aborted) return;
      const isGone = isForgotten(error);
      if (!isGone) this.#trouble(root, error);
      // Until there is a better one, the place stays: the parent may be well.
      if (isGone || ++state.failedBeats >= FAILED_BEATS) this.#sitAgain(root, beat.contents);
    }
  }

  #sitAgain(root: string, contents: readonly Content[]): void {
    const seats = contents.flatMap((content) => this.#seats.get(contentKey(content)) ?? []);
    void this.#sit(seats.filter((seat) => seat.root === root && seat.joining === null));
  }

  /** Whether a root that comes earlier in the content's order may be well again. */
  #isToReturn({ root, content }: Seat): boolean {
    return this.#beats % RETURN_BEATS === 0 && this.#order(content.table)[0] !== root;
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
    const { session } = this.#roots.get(root)!;
    if (session === null) return;
    try {
      await withinMs(clock, CALL_MS, this.#closed.signal, (signal) =>
        transport.leave(root, session, { id: member.id, contents }, signal),
      );
    } catch {
      // It is not in the next heartbeat, which says the same.
    }
  }

  /** Roots in the order in which they are asked about a table: those that rest come last. */
  #order(table: Digest): readonly string[] {
    const nowMs = this.#parts.clock.now();
    const order = rootOrder(this.#parts.roots, table);
    const isResting = (root: string) => this.#roots.get(root)!.restsUntilMs > nowMs;
    return [...order.filter((root) => !isResting(root)), ...order.filter(isResting)];
  }

  #trouble(root: string, error: unknown): void {
    const state = this.#roots.get(root)!;
    state.restsUntilMs = this.#parts.clock.now() + REST_MS;
    const isNews = state.lastError === null;
    state.lastError = error instanceof Error ? error.message : String(error);
    if (isNews) this.#parts.onTrouble(root, error);
  }

  #isWell(state: RootState): void {
    state.failedBeats = 0;
    state.lastError = null;
    state.restsUntilMs = Number.NEGATIVE_INFINITY;
  }
}

/** The root does not know the member any more: it answers, but has to be joined again. */
function isForgotten(error: unknown): boolean {
  if (!(error instanceof RootError)) return false;
  return error.code === 'ERR_ROOT_UNKNOWN_MEMBER' || error.code === 'ERR_ROOT_UNAUTHORIZED';
}

import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Content, Lost, Peer, Place } from '../mesh-protocol.ts';
import type { Clock } from './clock.ts';
import type { Where } from './mesh.ts';
import { EdgeCounts } from './mesh-counts.ts';
import type { SeatView } from './peer-run.ts';
import { withinMs } from './time-limit.ts';

export interface SeatParts {
  readonly content: Content;
  readonly clock: Clock;
  /** How long reads wait for the first place. */
  readonly joinMs: number;
  /** Tells the root; resolves when the seat has what came of it. */
  readonly lose: (seat: Seat, lost: Peer, reason: Lost['reason']) => Promise<void>;
}

/** A join that came to nothing is not made again at once, however often the content is opened. */
const REJOIN_MS = 5_000;

/** This host in one tree: where it stands, by whose word. */
export class Seat implements SeatView {
  readonly content: Content;
  readonly edges = new EdgeCounts();
  /** By whose right it was joined last; null before. */
  where: Where | null = null;
  /** The root that gave the place. */
  root: string | null = null;
  /** Why a root does not give one. Not asked again before somebody joins again. */
  refusal: string | null = null;
  /** How often it is open here. */
  openings = 0;
  /** Since when nobody has it open. */
  idleSinceMs: number;
  meshBytes = 0;
  proxyBytes = 0;
  readonly #parts: SeatParts;
  #place: Place | null = null;
  #ticketEndMs = 0;
  #joining: { readonly promise: Promise<void>; readonly sinceMs: number } | null = null;
  /** When the last join came to nothing; null if it gave a place. */
  #fruitlessMs: number | null = null;
  readonly #losing = new Map<string, Promise<void>>();

  constructor(parts: SeatParts) {
    this.#parts = parts;
    this.content = parts.content;
    this.idleSinceMs = parts.clock.now();
  }

  /** Null without one, or when its ticket has ended. */
  get place(): Place | null {
    return this.#parts.clock.now() < this.#ticketEndMs ? this.#place : null;
  }

  /** What a join is under way in. */
  get joining(): Promise<void> | null {
    return this.#joining?.promise ?? null;
  }

  /** Whether it has no place, and asking for one may help now. */
  get isToJoin(): boolean {
    if (this.place !== null || this.#joining !== null) return false;
    return this.#fruitlessMs === null || this.#parts.clock.now() - this.#fruitlessMs >= REJOIN_MS;
  }

  take(root: string, place: Place): void {
    this.#fruitlessMs = null;
    this.root = root;
    this.refusal = null;
    this.#place = place;
    this.#ticketEndMs = this.#parts.clock.now() + place.ticketEndsInMs;
  }

  /** The host may not be there (any more). */
  refuse(reason: string): void {
    this.refusal = reason;
    this.root = null;
    this.#place = null;
  }

  /** `promise` never rejects. */
  join(promise: Promise<void>): void {
    const joining = { promise, sinceMs: this.#parts.clock.now() };
    this.#joining = joining;
    void promise.then(() => {
      if (this.#joining !== joining) return;
      this.#joining = null;
      this.#fruitlessMs = this.place === null ? this.#parts.clock.now() : null;
    });
  }

  /**
   * The place; if a join is under way, once its answer is there, or after the budget for joining. When the one before
   * came to nothing, reads are not held up again.
   */
  async arrival(signal: AbortSignal, joinMs = this.#parts.joinMs): Promise<Place | null> {
    if (this.place !== null || this.#joining === null || this.#fruitlessMs !== null) return this.place;
    const { clock } = this.#parts;
    const { promise, sinceMs } = this.#joining;
    const leftMs = sinceMs + joinMs - clock.now();
    if (leftMs <= 0) return null;
    try {
      await withinMs(clock, leftMs, signal, (ends) => unlessAborted(promise, ends));
    } catch {
      signal.throwIfAborted();
    }
    return this.place;
  }

  lose(peer: Peer, reason: Lost['reason']): Promise<void> {
    let losing = this.#losing.get(peer.id);
    if (losing === undefined) {
      losing = this.#parts.lose(this, peer, reason).finally(() => this.#losing.delete(peer.id));
      this.#losing.set(peer.id, losing);
    }
    return losing;
  }
}

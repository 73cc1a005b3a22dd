import { type ChunkTable, chunkLength, verifyChunk } from '../../format/chunk-table.ts';
import type { Lost, Peer, Place } from '../mesh-protocol.ts';
import type { Clock } from './clock.ts';
import type { Budgets } from './mesh.ts';
import type { EdgeCounts, MeshCounters } from './mesh-counts.ts';
import { type Attempt, isFinding, newAttempt, putOff } from './peer-attempt.ts';
import type { PeerStandings } from './peer-standings.ts';
import { PeerError, type PeerTransport } from './peer-transport.ts';
import { RunTime } from './run-time.ts';

/** This host's place in one tree, as far as a run looks at it. */
export interface SeatView {
  readonly place: Place | null;
  /** A peer is left: reports it. Resolves when there is another place, or will be none. */
  lose(peer: Peer, reason: Lost['reason']): Promise<void>;
}

export interface RunParts {
  readonly table: ChunkTable;
  readonly seat: SeatView;
  readonly transport: PeerTransport;
  readonly clock: Clock;
  readonly standings: PeerStandings;
  readonly counters: MeshCounters;
  readonly edges: EdgeCounts;
  readonly budgets: Budgets;
}

/** How long a peer is left alone that was left, by the reason. What sends wrong bytes has bad memory, or bad intent. */
const AVOID_MS = { unreachable: 10_000, slow: 10_000, refused: 5_000, 'wrong-bytes': 600_000 } as const;
const AVOID_BUSY_MS = 300;
/** Who stands at the top waits for no other host: so often it may give nothing of what it has, until it is reported. */
const REPORTED_STALLS = 3;
const MAX_HEDGES = 2;
/** Of the hosts that busy ones name, so many are asked in one run: no host has another one ask anybody it likes. */
const MAX_NAMED = 4;
/** Of all that runs end: an error made for each would cost more than it says. */
const RUN_OVER = new Error('the run of chunks is over');
/** Peers that are asked in one run before one says that it has the content. */
const MAX_FINDING = 3;

/**
 * One run of neighbouring chunks: from the parent, if that fails or is slow from the alternates, within the budgets.
 * While this process itself is held up, no time passes for its peers.
 */
export class PeerRun {
  readonly #parts: RunParts;
  readonly #first: number;
  readonly #deliver: (index: number, bytes: Buffer) => void;
  readonly #has: Uint8Array;
  #missing: number;
  readonly #attempts = new Set<Attempt>();
  readonly #tried = new Set<string>();
  /** By busy peers. */
  readonly #named: Peer[] = [];
  readonly #over = new AbortController();
  readonly #done = Promise.withResolvers<void>();
  #moving: Promise<void> | null = null;
  #hedges = 0;
  readonly #time: RunTime;

  constructor(
    parts: RunParts,
    first: number,
    count: number,
    deliver: (index: number, bytes: Buffer) => void,
  ) {
    this.#parts = parts;
    this.#first = first;
    this.#deliver = deliver;
    this.#has = new Uint8Array(count);
    this.#missing = count;
    const { clock, budgets, seat, standings } = parts;
    const depth = () => seat.place?.depth ?? null;
    this.#time = new RunTime(clock, budgets, depth, () => standings.usualMs(seat.place?.parent?.id ?? null));
  }

  /** The indexes that did not come. To be called once. @throws the signal's reason */
  async get(signal: AbortSignal): Promise<number[]> {
    signal.throwIfAborted();
    const onAbort = () => this.#done.resolve();
    signal.addEventListener('abort', onAbort, { once: true });
    this.#next();
    void this.#watch();
    await this.#done.promise;
    signal.removeEventListener('abort', onAbort);
    this.#over.abort(RUN_OVER);
    for (const { abort } of this.#attempts) abort.abort(RUN_OVER);
    signal.throwIfAborted();
    const missing: number[] = [];
    for (const [at, has] of this.#has.entries()) if (has === 0) missing.push(this.#first + at);
    return missing;
  }

  /** Asks the next peer; ends the run when there is none and nothing is under way. */
  #next(): void {
    if (this.#over.signal.aborted) return;
    const peer = this.#candidate();
    if (peer !== null) this.#start(peer, false);
    else if (this.#moving === null) this.#done.resolve();
    else void this.#nextAfterMove(this.#moving);
  }

  /** The root may name another parent: that is worth a short wait. */
  async #nextAfterMove(moving: Promise<void>): Promise<void> {
    const { clock, budgets } = this.#parts;
    const waiting = new AbortController();
    const signal = AbortSignal.any([waiting.signal, this.#over.signal]);
    await Promise.race([moving, clock.sleep(budgets.findMs, signal).catch(() => {})]);
    waiting.abort(RUN_OVER);
    if (this.#moving === moving) this.#moving = null;
    if (this.#attempts.size === 0) this.#next();
  }

  #candidate(): Peer | null {
    const { seat, standings } = this.#parts;
    const { place } = seat;
    if (place === null || place.parent === null) return null;
    for (const peer of [place.parent, ...place.alternates, ...this.#named]) {
      if (!this.#tried.has(peer.id) && !standings.isAvoided(peer.id, place.table)) return peer;
    }
    return null;
  }

  #start(peer: Peer, isHedge: boolean): void {
    this.#tried.add(peer.id);
    const attempt = newAttempt(peer, isHedge, this.#parts.clock.now());
    this.#attempts.add(attempt);
    void this.#ask(attempt);
  }

  async #ask(attempt: Attempt): Promise<void> {
    const { peer, abort } = attempt;
    let leave: () => void;
    try {
      leave = await this.#parts.standings.enter(peer.id, this.#missing, abort.signal);
    } catch {
      return;
    }
    try {
      await this.#request(attempt);
      this.#ended(attempt);
    } catch (error) {
      if (!abort.signal.aborted) this.#failed(attempt, error);
    } finally {
      leave();
    }
  }

  async #request(attempt: Attempt): Promise<void> {
    const { transport, clock, table, seat } = this.#parts;
    const { place } = seat;
    if (place === null) return;
    const first = this.#has.indexOf(0);
    const count = this.#has.lastIndexOf(0) - first + 1;
    attempt.sentMs = clock.now();
    attempt.lastMs = attempt.sentMs;
    const sizes = { chunkSize: table.chunkSize, blobSize: table.blobSize };
    const request = { table: place.table, sizes, ticket: place.ticket, first: this.#first + first, count };
    const listener = {
      found: () => this.#found(attempt),
      deliver: (index: number, bytes: Buffer) => this.#take(attempt, index, bytes),
    };
    await transport.chunks(attempt.peer, request, listener, attempt.abort.signal);
  }

  /** One peer says that it has the content: those that had their time and said nothing are at fault. */
  #found(attempt: Attempt): void {
    if (attempt.isFound || attempt.abort.signal.aborted) return;
    attempt.isFound = true;
    const { standings, clock } = this.#parts;
    const { id } = attempt.peer;
    standings.heard(id);
    standings.absolve(id, 'silent');
    standings.sampleFind(id, clock.now() - attempt.sentMs!);
    for (const other of this.#attempts) if (other.isLate && !other.isFound) this.#silent(other);
  }

  #take(attempt: Attempt, index: number, bytes: Buffer): void {
    if (attempt.abort.signal.aborted) return;
    const { table, clock, counters, edges, standings, seat } = this.#parts;
    const { peer } = attempt;
    const at = index - this.#first;
    if (!verifyChunk(table, index, bytes)) {
      counters.wrongChunks++;
      this.#leave(attempt, 'wrong-bytes');
      return;
    }
    const nowMs = clock.now();
    standings.heard(peer.id);
    if (seat.place !== null) standings.flows(peer.id, seat.place.table);
    standings.sample(peer.id, nowMs - attempt.lastMs);
    const lengthBytes = chunkLength(table, index);
    edges.count(peer.id, lengthBytes, attempt.hasDelivered ? null : nowMs - attempt.sentMs!);
    attempt.lastMs = nowMs;
    attempt.hasDelivered = true;
    counters.receivedBytes += lengthBytes;
    if (this.#has[at] !== 0) return;
    this.#has[at] = 1;
    this.#missing--;
    this.#time.progressed(nowMs);
    counters.receivedChunks++;
    if (attempt.isHedge) this.#won(attempt);
    this.#deliver(index, bytes);
    if (this.#missing === 0) this.#done.resolve();
  }

  /** A second request brought what the first one did not. */
  #won(hedge: Attempt): void {
    const { standings, counters } = this.#parts;
    hedge.isHedge = false;
    counters.hedgesWon++;
    for (const other of this.#attempts) {
      if (other === hedge) continue;
      if (standings.isToLeave(other, 'slow')) this.#leave(other, 'slow');
      else this.#drop(other);
    }
  }

  #ended(attempt: Attempt): void {
    const { standings } = this.#parts;
    standings.absolve(attempt.peer.id, 'busy');
    if (!attempt.isHedge && this.#hedges === 0) standings.absolve(attempt.peer.id, 'slow');
    this.#drop(attempt);
    if (this.#missing > 0) this.#goOn();
  }

  #failed(attempt: Attempt, error: unknown): void {
    const reason = error instanceof PeerError ? this.#faultOf(attempt, error) : 'unreachable';
    if (reason !== null) {
      this.#leave(attempt, reason);
      return;
    }
    this.#drop(attempt);
    this.#goOn();
  }

  /** For what a peer is left; null if only another one is to be asked this time. */
  #faultOf(attempt: Attempt, error: PeerError): Lost['reason'] | null {
    const { standings, seat } = this.#parts;
    const { id } = attempt.peer;
    switch (error.code) {
      case 'ERR_PEER_INCOMPLETE':
        return null;
      case 'ERR_PEER_BUSY':
        this.#named.push(...error.alternates.slice(0, MAX_NAMED - this.#named.length));
        standings.avoid(id, '*', AVOID_BUSY_MS);
        return standings.isToLeave(attempt, 'busy') ? 'refused' : null;
      case 'ERR_PEER_UNKNOWN_CONTENT':
        // It may be about to open it.
        standings.avoid(id, seat.place?.table ?? '*', AVOID_BUSY_MS);
        return standings.isToLeave(attempt, 'busy') ? 'refused' : null;
      case 'ERR_PEER_TICKET':
        return 'refused';
      case 'ERR_PEER_ANSWER':
        return 'wrong-bytes';
      case 'ERR_PEER_UNREACHABLE':
        return 'unreachable';
    }
  }

  /** Not to be asked again for a while, by any run; the root is told. */
  #leave(attempt: Attempt, reason: Lost['reason']): void {
    const { standings, counters, seat } = this.#parts;
    const { peer } = attempt;
    const tree = reason === 'refused' ? seat.place?.table : '*';
    if (tree !== undefined) standings.avoid(peer.id, tree, AVOID_MS[reason]);
    counters.left[reason]++;
    this.#moving = seat.lose(peer, reason);
    this.#drop(attempt);
    this.#goOn();
  }

  #drop(attempt: Attempt): void {
    this.#attempts.delete(attempt);
    attempt.abort.abort(RUN_OVER);
  }

  /** An attempt is over: another one that is under way takes its place, or the next peer is asked. */
  #goOn(): void {
    for (const other of this.#attempts) other.isHedge = false;
    if (this.#attempts.size === 0) this.#next();
  }

  /** Looks at what is under way whenever a budget may have run out. */
  async #watch(): Promise<void> {
    for (;;) {
      let heldUpMs: number;
      try {
        heldUpMs = await this.#time.until(this.#dueMs(), this.#over.signal);
      } catch {
        return;
      }
      // What came meanwhile has not been looked at yet: it is, before anyone is judged.
      for (const attempt of this.#attempts) putOff(attempt, heldUpMs);
      if (heldUpMs === 0) this.#check(this.#parts.clock.now());
    }
  }

  #dueMs(): number {
    const { endMs } = this.#time;
    let dueMs = this.#isUnheard ? Math.min(endMs, this.#giveUpMs) : endMs;
    for (const attempt of this.#attempts) {
      if (isFinding(attempt)) dueMs = Math.min(dueMs, attempt.sentMs + this.#findMs(attempt));
      if (this.#mayHedge) dueMs = Math.min(dueMs, this.#hedgeMs(attempt));
    }
    return dueMs;
  }

  /** All who could be asked were, and said nothing in their time. */
  get #isUnheard(): boolean {
    for (const { isLate, isFound } of this.#attempts) if (isFound || !isLate) return false;
    return this.#attempts.size > 0;
  }

  /** Hosts that were there a moment ago get more time: they may have much to do. */
  get #giveUpMs(): number {
    const { standings } = this.#parts;
    let isThere = false;
    for (const { peer } of this.#attempts) isThere ||= standings.isThere(peer.id);
    return this.#time.giveUpMs(isThere);
  }

  #findMs({ peer }: Attempt): number {
    return this.#parts.standings.findMs(peer.id, this.#parts.budgets.findMs);
  }

  get #mayHedge(): boolean {
    return this.#attempts.size === 1 && this.#hedges < MAX_HEDGES;
  }

  #hedgeMs(attempt: Attempt): number {
    return attempt.lastMs + this.#parts.standings.patienceMs(attempt.peer.id);
  }

  #check(nowMs: number): void {
    if (nowMs >= this.#time.endMs) {
      if (nowMs >= this.#time.stallMs) this.#stalled(nowMs);
      this.#done.resolve();
      return;
    }
    for (const attempt of this.#attempts) {
      if (isFinding(attempt) && nowMs >= attempt.sentMs + this.#findMs(attempt)) this.#late(attempt);
    }
    if (this.#isUnheard && nowMs >= this.#giveUpMs) {
      this.#nobody();
      return;
    }
    const [slow] = this.#attempts;
    if (slow === undefined || !this.#mayHedge || nowMs < this.#hedgeMs(slow)) return;
    this.#hedges++;
    const peer = this.#candidate();
    if (peer === null) return;
    this.#parts.counters.hedges++;
    this.#start(peer, true);
  }

  /** Nothing came. Whom all of them wait for is not known, but if the parent is at the top. */
  #stalled(nowMs: number): void {
    const { standings, seat, counters, budgets } = this.#parts;
    const { place } = seat;
    if (place === null) return;
    for (const { peer, sentMs, lastMs } of this.#attempts) {
      if (sentMs === null || nowMs - lastMs < budgets.readMs / 2) continue;
      const stalls = standings.stalled(peer.id, place.table, sentMs);
      const isAtTop = place.depth === 2 && peer.id === place.parent?.id;
      if (!isAtTop || stalls !== REPORTED_STALLS) continue;
      counters.left.slow++;
      void seat.lose(peer, 'slow');
    }
  }

  /** Another one is asked too. If that says something, this one is at fault; if nobody does, nobody can tell. */
  #late(attempt: Attempt): void {
    attempt.isLate = true;
    if ([...this.#attempts].some(({ isFound }) => isFound)) {
      this.#silent(attempt);
      return;
    }
    const peer = this.#tried.size < MAX_FINDING ? this.#candidate() : null;
    if (peer !== null) this.#start(peer, true);
  }

  /** Another one has said something sooner. Who was there a moment ago may have much to do, the first time. */
  #silent(attempt: Attempt): void {
    const { standings } = this.#parts;
    const isAgain = standings.isToLeave(attempt, 'silent');
    if (isAgain || !standings.isThere(attempt.peer.id)) this.#leave(attempt, 'unreachable');
    else this.#drop(attempt);
  }

  /** Nobody has said anything: it may be this host that cannot hear, the first time. */
  #nobody(): void {
    const { standings } = this.#parts;
    const [again, once]: [Attempt[], Attempt[]] = [[], []];
    for (const attempt of this.#attempts) {
      (standings.isToLeave(attempt, 'silent') ? again : once).push(attempt);
    }
    for (const attempt of once) this.#drop(attempt);
    for (const attempt of again) this.#leave(attempt, 'unreachable');
    if (again.length === 0) this.#done.resolve();
  }
}

import { LRUCache } from 'lru-cache';
import type { Digest } from '../../oci/digest.ts';
import type { Clock } from './clock.ts';
import type { Attempt } from './peer-attempt.ts';
import { TimeEstimate } from './time-estimate.ts';

/** Requests to one peer at once; more wait here, so that none waits unseen in a connection pool. */
export const MAX_REQUESTS_PER_PEER = 8;
const MAX_PEERS = 4096;
/** Of a peer that nothing is known of: what a chunk may take that comes down from the top of a tree. */
const FIRST_PATIENCE_MS = 500;
const MIN_PATIENCE_MS = 150;
const MAX_PATIENCE_MS = 1_000;
/** So many budgets for finding at most has a peer that always takes long to say something: it has much to do. */
const MAX_FINDS = 3;
/** Who has a content and gave nothing of it in so many runs is left alone in that tree, each time for twice as long. */
const MAX_STALLS = 2;
const AVOID_STALLED_MS = 5_000;
const MAX_AVOID_STALLED_MS = 40_000;
/** Faults of a kind that only counts when it comes again so soon. Who stalls is left alone for long in between. */
const FAULT_MEMORY_MS = { slow: 10_000, busy: 10_000, silent: 10_000, stalled: 90_000 } as const;
/** A peer is left when another one was faster so often, it was busy or said nothing so often, one time soon after the other. */
const LEFT_AFTER = { slow: 2, busy: 4, silent: 2 } as const;
/** A host from which something came so lately is there, whatever it is busy with. */
const HEARD_MS = 10_000;

/** What a peer may do once or twice. */
export type Fault = keyof typeof FAULT_MEMORY_MS;

interface Waiter {
  readonly chunks: number;
  readonly start: () => void;
}

interface Standing {
  /** Until when it is left alone, in all trees ('*') and in single ones. */
  readonly avoidedUntilMs: Map<Digest | '*', number>;
  /** Until it says that it has a content, and until the next chunk. */
  readonly find: TimeEstimate;
  readonly chunk: TimeEstimate;
  running: number;
  readonly waiting: Waiter[];
  heardMs: number;
  readonly faults: Map<Fault, { count: number; lastMs: number }>;
}

/** What this host has seen of the others: whom it leaves alone for now, and what it may expect of each. */
export class PeerStandings {
  readonly #clock: Clock;
  readonly #peers = new LRUCache<string, Standing>({ max: MAX_PEERS });

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  avoid(id: string, tree: Digest | '*', forMs: number): void {
    this.#of(id).avoidedUntilMs.set(tree, this.#clock.now() + forMs);
  }

  isAvoided(id: string, tree: Digest): boolean {
    const untilMs = this.#peers.get(id)?.avoidedUntilMs;
    if (untilMs === undefined || untilMs.size === 0) return false;
    const nowMs = this.#clock.now();
    for (const [key, endMs] of untilMs) if (endMs <= nowMs) untilMs.delete(key);
    return untilMs.has('*') || untilMs.has(tree);
  }

  /** A chunk came after so long. */
  sample(id: string, elapsedMs: number): void {
    this.#of(id).chunk.sample(elapsedMs);
  }

  /** How long the next chunk may take before another peer is asked too. */
  patienceMs(id: string): number {
    const expectedMs = this.#of(id).chunk.longestMs ?? FIRST_PATIENCE_MS;
    return Math.min(Math.max(expectedMs, MIN_PATIENCE_MS), MAX_PATIENCE_MS);
  }

  /** What the next chunk may well take from it; 0 if nothing is known. */
  usualMs(id: string | null): number {
    return id === null ? 0 : (this.#of(id).chunk.longestMs ?? 0);
  }

  /** It has said something after so long. */
  sampleFind(id: string, elapsedMs: number): void {
    this.#of(id).find.sample(elapsedMs);
  }

  /** How long it may say nothing: the budget, and more if it always takes long. */
  findMs(id: string, budgetMs: number): number {
    const expectedMs = this.#of(id).find.longestMs ?? budgetMs;
    return Math.min(Math.max(expectedMs, budgetMs), MAX_FINDS * budgetMs);
  }

  /** Takes note of a fault, and says whether it is one too many. */
  isToLeave({ peer, sentMs }: Pick<Attempt, 'peer' | 'sentMs'>, kind: keyof typeof LEFT_AFTER): boolean {
    return this.#fault(peer.id, kind, sentMs ?? 0) >= LEFT_AFTER[kind];
  }

  /**
   * How many faults of this kind there were of late, with this one. Of requests that were under way together only one
   * counts: `sentMs` is when this one was sent.
   */
  #fault(id: string, kind: Fault, sentMs: number): number {
    const { faults } = this.#of(id);
    const nowMs = this.#clock.now();
    const before = faults.get(kind);
    const isFresh = before !== undefined && nowMs - before.lastMs < FAULT_MEMORY_MS[kind];
    if (isFresh && sentMs < before.lastMs) return before.count;
    const count = isFresh ? before.count + 1 : 1;
    faults.set(kind, { count, lastMs: nowMs });
    return count;
  }

  /**
   * It has a content, and gave nothing of it in all of a run's time: it waits for it in vain, or pretends. Reads must not
   * wait for it one after the other.
   * @returns how often, with this time
   */
  stalled(id: string, tree: Digest, sentMs: number): number {
    const stalls = this.#fault(inTree(id, tree), 'stalled', sentMs);
    if (stalls >= MAX_STALLS) {
      const forMs = AVOID_STALLED_MS * 2 ** (stalls - MAX_STALLS);
      this.avoid(id, tree, Math.min(forMs, MAX_AVOID_STALLED_MS));
    }
    return stalls;
  }

  /** A chunk of that content came from it. */
  flows(id: string, tree: Digest): void {
    this.absolve(inTree(id, tree), 'stalled');
  }

  /** Something came from it. */
  heard(id: string): void {
    this.#of(id).heardMs = this.#clock.now();
  }

  isThere(id: string): boolean {
    return this.#clock.now() - this.#of(id).heardMs < HEARD_MS;
  }

  /** It did what it should. */
  absolve(id: string, kind: Fault): void {
    this.#peers.get(id)?.faults.delete(kind);
  }

  /**
   * Waits until one more request to this peer may start: those for few chunks go first, somebody waits for them.
   * @returns to be called when the request is over
   * @throws the signal's reason
   */
  async enter(id: string, chunks: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    const standing = this.#of(id);
    const leave = () => {
      const next = standing.waiting.shift();
      if (next === undefined) standing.running--;
      else next.start();
    };
    if (standing.running < MAX_REQUESTS_PER_PEER) {
      standing.running++;
      return leave;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = { chunks, start: resolve };
    const after = standing.waiting.findIndex((other) => other.chunks > chunks);
    standing.waiting.splice(after === -1 ? standing.waiting.length : after, 0, waiter);
    const onAbort = () => {
      const at = standing.waiting.indexOf(waiter);
      if (at === -1) return;
      standing.waiting.splice(at, 1);
      reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    await promise;
    signal.removeEventListener('abort', onAbort);
    return leave;
  }

  #of(id: string): Standing {
    let standing = this.#peers.get(id);
    if (standing === undefined) {
      standing = {
        ...{ avoidedUntilMs: new Map(), find: new TimeEstimate(), chunk: new TimeEstimate() },
        ...{ running: 0, waiting: [], heardMs: Number.NEGATIVE_INFINITY, faults: new Map() },
      };
      this.#peers.set(id, standing);
    }
    return standing;
  }
}

function inTree(id: string, tree: Digest): string {
  return `${id} ${tree}`;
}

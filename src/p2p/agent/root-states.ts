import type { Digest } from '../../oci/digest.ts';
import { rootOrder } from '../root-order.ts';
import type { Clock } from './clock.ts';

/** What a member knows of one root. */
export interface RootState {
  readonly url: string;
  /** Null until a join was answered. */
  session: string | null;
  /** How often it wants to hear of the member, by its own word. */
  heartbeatMs: number;
  /** Null before heartbeats are sent to it; called when it wants the next one sooner. */
  hurry: (() => void) | null;
  /** One after the other. */
  failedBeats: number;
  restsUntilMs: number;
  lastError: string | null;
}

/** A root that failed is asked after the others for so long. */
const REST_MS = 10_000;

/** The roots of a member: which is asked first about what, and how they are. */
export class RootStates {
  readonly #clock: Clock;
  readonly #onTrouble: (root: string, error: unknown) => void;
  readonly #states: ReadonlyMap<string, RootState>;

  /**
   * @param heartbeatMs until a root has said more
   * @param onTrouble told when one fails that was well before
   */
  constructor(
    urls: readonly string[],
    clock: Clock,
    heartbeatMs: number,
    onTrouble: (root: string, error: unknown) => void,
  ) {
    this.#clock = clock;
    this.#onTrouble = onTrouble;
    const fresh = (url: string): RootState => ({
      ...{ url, session: null, heartbeatMs, hurry: null, failedBeats: 0 },
      ...{ restsUntilMs: Number.NEGATIVE_INFINITY, lastError: null },
    });
    this.#states = new Map(urls.map((url) => [url, fresh(url)]));
  }

  get all(): readonly RootState[] {
    return [...this.#states.values()];
  }

  of(url: string): RootState {
    return this.#states.get(url)!;
  }

  /** In the order in which they are asked about a table: those that rest come last. */
  order(table: Digest): readonly string[] {
    const order = this.#orderOf(table);
    return [...order.filter((url) => !this.#isResting(url)), ...order.filter((url) => this.#isResting(url))];
  }

  /** Whether one that comes before this one in the table's order may be well again. */
  isAnotherFirst(table: Digest, url: string): boolean {
    const order = this.#orderOf(table);
    return order.slice(0, order.indexOf(url)).some((earlier) => !this.#isResting(earlier));
  }

  failed(url: string, error: unknown): void {
    const state = this.of(url);
    state.restsUntilMs = this.#clock.now() + REST_MS;
    const isNews = state.lastError === null;
    state.lastError = error instanceof Error ? error.message : String(error);
    if (isNews) this.#onTrouble(url, error);
  }

  /** It has answered. */
  isWell(state: RootState): void {
    state.failedBeats = 0;
    state.lastError = null;
    state.restsUntilMs = Number.NEGATIVE_INFINITY;
  }

  #orderOf(table: Digest): readonly string[] {
    return rootOrder([...this.#states.keys()], table);
  }

  #isResting(url: string): boolean {
    return this.of(url).restsUntilMs > this.#clock.now();
  }
}

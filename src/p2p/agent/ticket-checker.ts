import { LRUCache } from 'lru-cache';
import { TokenError, type VerifyingKeys } from '../signed-tokens.ts';
import { type Ticket, verifyingKeys, verifyTicket } from '../tickets.ts';
import type { Clock } from './clock.ts';
import type { RootTransport } from './root-transport.ts';
import { withinMs } from './time-limit.ts';

const KEYS_MS = 1_500;
/** Roots are not asked more often than this, whatever tickets come. */
const REFRESH_MS = 2_000;
const MAX_TICKETS = 4096;

/** Checks the tickets of children by the keys of all roots. */
export class TicketChecker {
  readonly #roots: readonly string[];
  readonly #transport: RootTransport;
  readonly #clock: Clock;
  readonly #keys = new Map<string, VerifyingKeys>();
  /** Those that were good. */
  readonly #tickets = new LRUCache<string, Ticket>({ max: MAX_TICKETS });
  readonly #closed = new AbortController();
  #refreshing: Promise<void> | null = null;
  #refreshedMs = Number.NEGATIVE_INFINITY;

  constructor(roots: readonly string[], transport: RootTransport, clock: Clock) {
    this.#roots = roots;
    this.#transport = transport;
    this.#clock = clock;
  }

  /** @throws TokenError */
  async check(text: string): Promise<Ticket> {
    const nowMs = Date.now();
    const known = this.#tickets.get(text);
    if (known !== undefined && nowMs < known.endsAtMs) return known;
    try {
      return this.#verify(text, nowMs);
    } catch (error) {
      if (!(error instanceof TokenError) || error.code !== 'ERR_TOKEN_KEY_UNKNOWN') throw error;
      await this.refresh();
      return this.#verify(text, nowMs);
    }
  }

  /** Asks all roots for their keys; those that do not answer keep the ones they had. */
  refresh(): Promise<void> {
    if (this.#refreshing !== null) return this.#refreshing;
    const nowMs = this.#clock.now();
    if (nowMs - this.#refreshedMs < REFRESH_MS || this.#closed.signal.aborted) return Promise.resolve();
    this.#refreshedMs = nowMs;
    this.#refreshing = Promise.allSettled(this.#roots.map((root) => this.#ask(root))).then(() => {
      this.#refreshing = null;
    });
    return this.#refreshing;
  }

  close(): void {
    this.#closed.abort();
  }

  async #ask(root: string): Promise<void> {
    const keys = await withinMs(this.#clock, KEYS_MS, this.#closed.signal, (signal) =>
      this.#transport.keys(root, signal),
    );
    this.#keys.set(root, verifyingKeys(keys));
  }

  #verify(text: string, nowMs: number): Ticket {
    const keys = new Map([...this.#keys.values()].flatMap((some) => [...some]));
    const ticket = verifyTicket(text, keys, nowMs);
    this.#tickets.set(text, ticket);
    return ticket;
  }
}

import type { Peer } from '../mesh-protocol.ts';

/** A run's request to one peer. */
export interface Attempt {
  readonly peer: Peer;
  readonly abort: AbortController;
  /** Begun because another one was slow, and not ahead of it yet. */
  isHedge: boolean;
  /** Null while it waits for its turn. */
  sentMs: number | null;
  isFound: boolean;
  /** It has had its time to say that it has the content. */
  isLate: boolean;
  hasDelivered: boolean;
  /** When it was begun, or a chunk came last. */
  lastMs: number;
}

export function newAttempt(peer: Peer, isHedge: boolean, nowMs: number): Attempt {
  return {
    ...{ peer, isHedge, abort: new AbortController(), sentMs: null },
    ...{ isFound: false, isLate: false, hasDelivered: false, lastMs: nowMs },
  };
}

/** Whether it may still say in its time that it has the content. */
export function isFinding(attempt: Attempt): attempt is Attempt & { sentMs: number } {
  return attempt.sentMs !== null && !attempt.isFound && !attempt.isLate;
}

/** As if it had been begun so much later. */
export function putOff(attempt: Attempt, ms: number): void {
  attempt.lastMs += ms;
  if (attempt.sentMs !== null) attempt.sentMs += ms;
}

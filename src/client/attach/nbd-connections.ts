import { setTimeout as sleep } from 'node:timers/promises';
import type { NbdConnection } from '../nbd/nbd-connection.ts';

export type Farewell = Awaited<ReturnType<NbdConnection['run']>>;

/** A connection that is served, until its other end leaves. */
export interface Served {
  readonly farewell: Promise<Farewell>;
}

export interface NbdConnections {
  /** Whether the other end is to get another connection instead of the one that was lost. */
  isWanted(): Promise<boolean>;
  connect(): Promise<Served>;
  /** Told why it cannot be connected now. */
  onFailure(error: unknown): void;
}

const DEFAULT_PAUSE_MS = 1_000;

/**
 * Serves one connection after the other until the other end says goodbye, or wants no other. One that fails is tried
 * again after a pause, without end: whoever reads waits for it, and nobody else would serve that.
 */
export async function serveConnections(
  first: Served,
  { isWanted, connect, onFailure }: NbdConnections,
  { pauseMs = DEFAULT_PAUSE_MS } = {},
): Promise<void> {
  for (let current: Served | null = first; ; ) {
    try {
      if ((await current?.farewell) === 'goodbye' || !(await isWanted())) return;
      current = await connect();
    } catch (error) {
      onFailure(error);
      current = null;
      await sleep(pauseMs);
    }
  }
}

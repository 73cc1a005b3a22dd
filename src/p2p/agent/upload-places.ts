import type { Clock } from './clock.ts';

/** Requests at once, of all children and of one. A child asks for no more than eight by itself. */
const MAX_REQUESTS = 128;
const MAX_REQUESTS_PER_CHILD = 16;
/** A child that gets less than this is better off elsewhere. */
const BYTES_PER_SECOND_PER_CHILD = 1_000_000;
const MIN_CHILDREN = 2;
const MAX_CHILDREN = 64;
/** A child keeps its place between its requests. */
const PLACE_MS = 5_000;

interface Child {
  running: number;
  lastMs: number;
}

/** How many are sent something at once. */
export class UploadPlaces {
  readonly #clock: Clock;
  readonly #maxChildren: number;
  readonly #children = new Map<string, Child>();
  #running = 0;

  constructor(uploadBytesPerSecond: number, clock: Clock) {
    this.#clock = clock;
    const fair = Math.floor(uploadBytesPerSecond / BYTES_PER_SECOND_PER_CHILD);
    this.#maxChildren = Math.min(Math.max(fair, MIN_CHILDREN), MAX_CHILDREN);
  }

  /** Those that were sent something of late. */
  get children(): number {
    this.#forget();
    return this.#children.size;
  }

  /** Null: there is no place. Else to be called when the request is over. */
  enter(id: string): (() => void) | null {
    if (this.#running >= MAX_REQUESTS) return null;
    let child = this.#children.get(id);
    if (child === undefined) {
      this.#forget();
      if (this.#children.size >= this.#maxChildren) return null;
      child = { running: 0, lastMs: 0 };
      this.#children.set(id, child);
    }
    if (child.running >= MAX_REQUESTS_PER_CHILD) return null;
    const entered = child;
    entered.running++;
    this.#running++;
    return () => {
      entered.running--;
      entered.lastMs = this.#clock.now();
      this.#running--;
    };
  }

  #forget(): void {
    const sinceMs = this.#clock.now() - PLACE_MS;
    for (const [id, { running, lastMs }] of this.#children) {
      if (running === 0 && lastMs < sinceMs) this.#children.delete(id);
    }
  }
}

import { LRUCache } from 'lru-cache';

/** What was reported longer ago counts no more, and who was suspected is trusted again. */
export const SUSPECT_MS = 60_000;
/** One may be wrong, or lie. */
const REPORTERS = 2;
/** Who finds fault with so many is at fault. */
const ACCUSED = 4;
const MAX_KEPT = 50_000;

/** Who has complained about whom of late, and who is not to have children for a while because of it. */
export class Complaints {
  /** By the one who is accused, then by reporter: when. */
  readonly #reports = new LRUCache<string, Map<string, number>>({ max: MAX_KEPT });
  /** By reporter, then by the one who is accused: when. */
  readonly #accusations = new LRUCache<string, Map<string, number>>({ max: MAX_KEPT });
  /** Until when. */
  readonly #suspects = new Map<string, number>();

  /** Takes note; those who are suspected from now on because of it. */
  add(reporter: string, accused: string, nowMs: number): string[] {
    const accusations = noted(this.#accusations, reporter, accused, nowMs);
    if (accusations >= ACCUSED) return this.#suspect(reporter, nowMs);
    if (this.isSuspected(reporter)) return [];
    const reports = noted(this.#reports, accused, reporter, nowMs);
    return reports >= REPORTERS ? this.#suspect(accused, nowMs) : [];
  }

  isSuspected(id: string): boolean {
    return this.#suspects.has(id);
  }

  /** Those whose time is over; they are no suspects any more. */
  cleared(nowMs: number): string[] {
    const cleared = [...this.#suspects].filter(([, untilMs]) => untilMs <= nowMs).map(([id]) => id);
    for (const id of cleared) this.forget(id);
    return cleared;
  }

  forget(id: string): void {
    this.#suspects.delete(id);
    this.#reports.delete(id);
    this.#accusations.delete(id);
  }

  #suspect(id: string, nowMs: number): string[] {
    const isNew = !this.#suspects.has(id);
    this.#suspects.set(id, nowMs + SUSPECT_MS);
    return isNew ? [id] : [];
  }
}

/** How many there are with the new one. */
function noted(kept: LRUCache<string, Map<string, number>>, key: string, who: string, nowMs: number): number {
  const those = kept.get(key) ?? new Map<string, number>();
  for (const [one, atMs] of those) if (atMs + SUSPECT_MS <= nowMs) those.delete(one);
  those.set(who, nowMs);
  kept.set(key, those);
  return those.size;
}

import { type Content, contentKey, type Heartbeat } from '../mesh-protocol.ts';

/** When all have been heard of once, so many heartbeats more a root learns what trees there were: a level of each with every one. */
const REBUILDING_BEATS = 12;

/**
 * What members say after a restart of the root about the trees that they are still in. Those at the top are told first to
 * join again, then those below them, so that all find their parents where they were.
 */
export class Rebuilding {
  readonly #endsAtMs: number;
  /** By member and content. */
  readonly #parents = new Map<string, string>();
  /** Members. */
  readonly #waiting = new Set<string>();
  readonly #maxParents: number;

  /** @param firstMs until the last of the members is heard of for the first time */
  constructor(startedAtMs: number, firstMs: number, heartbeatMs: number, maxParents: number) {
    this.#endsAtMs = startedAtMs + firstMs + REBUILDING_BEATS * heartbeatMs;
    this.#maxParents = maxParents;
  }

  /**
   * Whether a member that is not known in a tree is to join it now; if not, its parent is going to be there soon.
   * @param isInTree tells of a member whether it is in the tree again
   */
  isToJoin(
    { member, edges }: Heartbeat,
    content: Content,
    isInTree: (id: string) => boolean,
    nowMs: number,
  ): boolean {
    if (nowMs >= this.#endsAtMs) {
      this.#parents.clear();
      this.#waiting.clear();
      return true;
    }
    const from = edges.filter((edge) => edge.table === content.table && edge.from !== null && edge.bytes > 0);
    const parent = from.toSorted((a, b) => b.bytes - a.bytes)[0]?.from ?? null;
    if (parent !== null && this.#parents.size < this.#maxParents) {
      this.#parents.set(`${member.id} ${contentKey(content)}`, parent);
    }
    const known = this.parentOf(member.id, content);
    const isToJoin = known === null || isInTree(known);
    if (isToJoin) this.#waiting.delete(member.id);
    else if (this.#waiting.size < this.#maxParents) this.#waiting.add(member.id);
    return isToJoin;
  }

  /** How many wait for their parents to come back. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** The parent that a member had; null if nobody knows. */
  parentOf(member: string, content: Content): string | null {
    return this.#parents.get(`${member} ${contentKey(content)}`) ?? null;
  }
}

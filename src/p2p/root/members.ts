import type { Announcement, Peer } from '../mesh-protocol.ts';
import type { Seat } from './seats.ts';

/** A host, as a root knows it. */
export interface Member {
  announcement: Announcement;
  seenAtMs: number;
  /** When it was told to be heard of again. */
  heartbeatMs: number;
  /** By content. */
  readonly seats: Map<string, Seat>;
  /** How often others said that it sent them bytes that were not those of the chunk table. */
  wrongBytes: number;
}

/** All members, those first that were silent for longest. */
export class Members {
  readonly #members = new Map<string, Member>();
  readonly #heartbeatMs: number;

  /** @param heartbeatMs of one that has not been told otherwise */
  constructor(heartbeatMs: number) {
    this.#heartbeatMs = heartbeatMs;
  }

  get size(): number {
    return this.#members.size;
  }

  get(id: string): Member | undefined {
    return this.#members.get(id);
  }

  /** Takes note that a member is there; one that was not known is a new one. */
  seen(announcement: Announcement, nowMs: number): Member {
    const { id } = announcement;
    const member = this.#members.get(id) ?? {
      ...{ announcement, seenAtMs: nowMs, heartbeatMs: this.#heartbeatMs },
      ...{ seats: new Map(), wrongBytes: 0 },
    };
    this.#members.delete(id);
    this.#members.set(id, Object.assign(member, { announcement, seenAtMs: nowMs }));
    return member;
  }

  remove(id: string): void {
    this.#members.delete(id);
  }

  /** Those who are silent for so many heartbeats, of which none comes sooner than `leastMs` after another. */
  silentFor(beats: number, nowMs: number, leastMs: number): Member[] {
    const silent: Member[] = [];
    for (const member of this.#members.values()) {
      const silentMs = nowMs - member.seenAtMs;
      if (silentMs < beats * leastMs) break;
      if (silentMs >= beats * member.heartbeatMs) silent.push(member);
    }
    return silent;
  }

  values(): IterableIterator<Member> {
    return this.#members.values();
  }

  /** As others reach it; null for who is not known. */
  peer(id: string): Peer | null {
    const member = this.#members.get(id);
    return member === undefined ? null : { id, address: member.announcement.address };
  }
}

import type { Content, EdgeReport } from '../mesh-protocol.ts';
import type { Tree } from '../topology/tree.ts';

/** The tree of a content, with all who stand in it. */
export interface ContentTree {
  readonly content: Content;
  readonly tree: Tree;
  readonly seats: Map<string, Seat>;
}

/** What came to a member from one other, or from the proxies, by its own word. */
export interface EdgeTotals {
  bytes: number;
  /** From the request to the first chunk, of the last report that says so; null if none did. */
  latencyMs: number | null;
}

/** A member in one tree. */
export interface Seat {
  readonly of: ContentTree;
  readonly joinedAtMs: number;
  /** Until then the member may have new tickets; after that it has to show anew that it may read. */
  rightEndsAtMs: number;
  ticket: { readonly text: string; readonly endsAtMs: number } | null;
  /** What the member was told last. */
  told: { readonly parent: string | null; readonly alternates: readonly string[] };
  /** When it complained last. */
  lostAtMs: number;
  /** By the other member; null: the proxies. */
  readonly edges: Map<string | null, EdgeTotals>;
}

/** Of those that a member got something from: the ones heard of last. */
const MAX_EDGES = 16;

export function countEdge({ edges }: Seat, { from, bytes, latencyMs }: EdgeReport): void {
  const before = edges.get(from) ?? { bytes: 0, latencyMs: null };
  edges.delete(from);
  edges.set(from, { bytes: before.bytes + bytes, latencyMs: latencyMs ?? before.latencyMs });
  for (const oldest of edges.keys()) {
    if (edges.size <= MAX_EDGES) return;
    edges.delete(oldest);
  }
}

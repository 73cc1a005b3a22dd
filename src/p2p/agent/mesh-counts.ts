import type { Digest } from '../../oci/digest.ts';
import type { Heartbeat } from '../mesh-protocol.ts';
import type { MeshCounts } from './mesh.ts';

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends number ? number : Mutable<T[K]> };

/** What the parts of an agent count in. */
export type MeshCounters = Mutable<MeshCounts>;

export function zeroCounters(): MeshCounters {
  return {
    ...{ receivedBytes: 0, receivedChunks: 0, missedChunks: 0, proxyBytes: 0 },
    ...{ hedges: 0, hedgesWon: 0, wrongChunks: 0 },
    left: { unreachable: 0, slow: 0, 'wrong-bytes': 0, refused: 0 },
    ...{ sentBytes: 0, sentChunks: 0, refusedBusy: 0, refusedTicket: 0 },
  };
}

interface Edge {
  bytes: number;
  latencyMs: number;
  latencies: number;
}

/** What came over the edges of one tree since it was last told. */
export class EdgeCounts {
  #edges = new Map<string | null, Edge>();

  /** `latencyMs` is from a request to its first chunk, null for all but the first. */
  count(from: string | null, bytes: number, latencyMs: number | null): void {
    let edge = this.#edges.get(from);
    if (edge === undefined) {
      edge = { bytes: 0, latencyMs: 0, latencies: 0 };
      this.#edges.set(from, edge);
    }
    edge.bytes += bytes;
    if (latencyMs === null) return;
    edge.latencyMs += latencyMs;
    edge.latencies++;
  }

  take(table: Digest): Heartbeat['edges'] {
    const edges = this.#edges;
    this.#edges = new Map();
    return [...edges].map(([from, { bytes, latencyMs, latencies }]) => ({
      table,
      from,
      bytes,
      latencyMs: latencies === 0 ? null : latencyMs / latencies,
    }));
  }
}

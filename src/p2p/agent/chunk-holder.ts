import type { ChunkTable } from '../../format/chunk-table.ts';
import type { Digest } from '../../oci/digest.ts';

/** A content that this host has, or is getting, for others to ask for. */
export interface HeldContent {
  /** By this host's own record of the table: a ticket for another blob does not open it. */
  readonly blob: Digest;
  readonly table: ChunkTable;
  /** Whether {@link chunk} would have it without asking anybody. */
  has(index: number): boolean;
  /**
   * A whole chunk, verified; from above or from the proxies, if it is not here. It is not changed by anyone after.
   * Rejects if it cannot be had; with the signal's reason.
   */
  chunk(index: number, signal: AbortSignal): Promise<Buffer>;
}

/** What this host can give to others. */
export interface ChunkHolder {
  /** Null: not here. */
  find(table: Digest): HeldContent | null;
}

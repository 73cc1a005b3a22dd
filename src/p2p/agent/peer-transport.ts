import type { ChunkTable } from '../../format/chunk-table.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Peer } from '../mesh-protocol.ts';

/** Neighbouring chunks of one content, asked of a peer. */
export interface PeerRequest {
  readonly table: Digest;
  /** Of the blob: they tell how long each chunk is. */
  readonly sizes: Pick<ChunkTable, 'chunkSize' | 'blobSize'>;
  readonly ticket: string;
  readonly first: number;
  readonly count: number;
}

export interface PeerListener {
  /** The peer has the content, or is getting it: chunks follow. */
  found(): void;
  /** The chunks in order, whole, from the first; nobody has verified them. The buffer is the listener's. */
  deliver(index: number, bytes: Buffer): void;
}

/** How a host asks others for chunks. A simulator brings another one. */
export interface PeerTransport {
  /**
   * Resolves when all chunks were delivered.
   * @throws PeerError; the signal's reason. What was delivered before counts.
   */
  chunks(peer: Peer, request: PeerRequest, on: PeerListener, signal: AbortSignal): Promise<void>;
}

export type PeerErrorCode =
  /** It cannot be reached, or the connection broke off. */
  | 'ERR_PEER_UNREACHABLE'
  /** It sends as much as it can already; `alternates` may have it. */
  | 'ERR_PEER_BUSY'
  /** It does not take the ticket. */
  | 'ERR_PEER_TICKET'
  /** It does not have this content. */
  | 'ERR_PEER_UNKNOWN_CONTENT'
  /** It ended its answer early: it cannot get the rest itself. */
  | 'ERR_PEER_INCOMPLETE'
  /** It answers with what is no answer to the request: too much, a part of a chunk, another status. */
  | 'ERR_PEER_ANSWER';

/** A peer from which nothing comes, or nothing more. */
export class PeerError extends Error {
  override readonly name = 'PeerError';
  readonly code: PeerErrorCode;
  /** Whom a busy peer names instead of itself. */
  readonly alternates: readonly Peer[];

  constructor(
    code: PeerErrorCode,
    message: string,
    more: { readonly alternates?: readonly Peer[]; readonly cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? {} : { cause: more.cause });
    this.code = code;
    this.alternates = more.alternates ?? [];
  }
}

import type { Logger } from 'pino';
import type { ChunkTable } from '../../format/chunk-table.ts';
import type { Digest } from '../../oci/digest.ts';
import type { RegistryTls } from '../../oci/registry-tls.ts';
import type { Content, Lost, Peer } from '../mesh-protocol.ts';
import type { ChunkHolder, HeldContent } from './chunk-holder.ts';
import type { MeshBlob } from './mesh-blob.ts';

/** In whose right contents are joined: whoever may pull from the repository. */
export interface Where {
  readonly registry: string;
  readonly repository: string;
}

/** A host's part in the mesh. */
export interface Mesh {
  /**
   * One join for all of an image's contents; does not wait for the answer. Blobs opened meanwhile wait for it, up to
   * the budget for joining. What is joined and not opened, or closed, is left after a while.
   */
  join(where: Where, contents: readonly Content[]): void;
  /**
   * The encoded chunk table of a content that was joined, from the hosts above; null if they do not give it at once, or
   * this host is at the top. It matches its digest. Rejects only with the signal's reason.
   */
  table(content: Content, signal: AbortSignal): Promise<Buffer | null>;
  /**
   * The mesh's part of one blob; without a join before, it has nothing of it. To be closed by the caller.
   * @param patience `long`: for who wants all of it, and no byte soon
   */
  open(content: Content, table: ChunkTable, patience?: Patience): MeshBlob;
  /** Gives others a content that the holder lacks as yet, until the function that this returns is called. */
  lend(table: Digest, content: HeldContent): () => void;
  status(): MeshStatus;
  /** Leaves all trees, ends what is under way, and stops listening. */
  close(): Promise<void>;
}

export type PeerSecurity =
  /** TLS with a key that all hosts share; at least 16 bytes that nobody can guess. */
  | { readonly kind: 'shared-secret'; readonly secret: Buffer }
  /** Mutual TLS: whoever has a certificate of the authority is a host of the mesh. PEM. */
  | {
      readonly kind: 'certificates';
      readonly certificate: string;
      readonly key: string;
      readonly ca: string;
    }
  /** None, and only on loopback. */
  | { readonly kind: 'plain' };

/** How long a run of chunks waits for other hosts. */
export interface Budgets {
  /**
   * Until a root has answered the first join: roots are slow when many hosts start at the same time, and then the proxies
   * are still slower.
   */
  readonly joinMs: number;
  /** Until a peer says that it has the content; then another one is asked too. */
  readonly findMs: number;
  /** Until a chunk comes. */
  readonly readMs: number;
  /** Until all chunks of a run have come, if they keep coming; twice `readMs` if left out. */
  readonly runMs?: number;
}

/** How long a run waits for hosts that do not answer, or are slow: links may be full of the very blob. */
export type Patience = 'short' | 'long';

/**
 * The `Authorization` header with which a join is sent to a root (a proxy), or null for none. Asked once without a
 * challenge, and again with the root's own `WWW-Authenticate` if that was refused.
 */
export type AuthorizeJoin = (
  root: URL,
  where: Where,
  challenge: string | null,
  signal: AbortSignal,
) => Promise<string | null>;

export interface MeshAgentOptions {
  /** Where it listens for other hosts; port 0 takes a free one. */
  readonly listen: { readonly host: string; readonly port: number };
  /** HOST or HOST:PORT at which others reach it; the port it listens on, if none is given. */
  readonly advertise: string;
  /** '' for none. */
  readonly zone: string;
  /** No more than this is sent to others. */
  readonly uploadBytesPerSecond: number;
  /** In any order, the same on all hosts. */
  readonly roots: readonly URL[];
  /** For roots by https. */
  readonly rootTls?: RegistryTls | null;
  readonly security: PeerSecurity;
  readonly authorize: AuthorizeJoin;
  readonly holder: ChunkHolder;
  readonly logger: Logger;
  /** How long reads wait for other hosts. */
  readonly budgets?: Budgets;
  /** How long a content that nobody has open any more is still given to others. */
  readonly lingerMs?: number;
}

export interface TreeStatus extends Content {
  /** Null: it has no place there (any more). */
  readonly place: {
    readonly root: string;
    /** Null: at the top. */
    readonly parent: Peer | null;
    readonly alternates: readonly Peer[];
    /** 1 at the top. */
    readonly depth: number;
  } | null;
  /** How often it is open here. */
  readonly openings: number;
  readonly meshBytes: number;
  readonly proxyBytes: number;
}

/** Since the start. */
export interface MeshCounts {
  readonly receivedBytes: number;
  readonly receivedChunks: number;
  /** That were asked for here, and left to the proxies; not counting reads at the top of a tree. */
  readonly missedChunks: number;
  readonly proxyBytes: number;
  /** Second requests for what was slow, and those of them that were faster. */
  readonly hedges: number;
  readonly hedgesWon: number;
  /** Chunks that did not match their table. */
  readonly wrongChunks: number;
  readonly left: Readonly<Record<Lost['reason'], number>>;
  readonly sentBytes: number;
  readonly sentChunks: number;
  /** Requests of others that were turned down because too much was being sent. */
  readonly refusedBusy: number;
  readonly refusedTicket: number;
}

export interface MeshStatus {
  readonly id: string;
  readonly address: string;
  readonly zone: string;
  readonly roots: readonly { readonly url: string; readonly lastError: string | null }[];
  readonly trees: readonly TreeStatus[];
  /** Hosts that are being sent something. */
  readonly children: number;
  readonly counts: MeshCounts;
}

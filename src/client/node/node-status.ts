import type { Digest } from '../../oci/digest.ts';
import type { MeshStatus } from '../../p2p/agent/mesh.ts';
import type { AttachMethod } from '../attach/attach-contract.ts';
import type { CacheFigures } from '../chunks/chunk-cache.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';

/** Whether containerd should be sent here. */
export interface Readiness {
  readonly isReady: boolean;
  readonly checks: readonly {
    readonly name: string;
    readonly isOk: boolean;
    readonly message: string | null;
  }[];
}

/** How one mounted chain is. */
export interface MountStatus {
  readonly chainId: Digest;
  /** The repository in whose name it is read. */
  readonly image: string;
  readonly target: string;
  readonly method: AttachMethod;
  /** False while its image still has to be opened, after a restart without any proxy. */
  readonly isOpen: boolean;
  readonly layers: number;
  /** All blobs together: what would be downloaded if nothing were lazy. */
  readonly imageBytes: number;
  /** From the proxies, since this daemon took it up, as all that follows. */
  readonly bytesFetched: number;
  readonly chunksFetched: number;
  /** From other hosts. */
  readonly bytesFromMesh: number;
  readonly chunksFromMesh: number;
  /** Chunks that reads found in the cache, and the bytes that they took of it. */
  readonly cacheHits: number;
  readonly bytesFromCache: number;
  readonly bytesRead: number;
  readonly readsUnderWay: number;
  /** Reads that failed: EIO. */
  readonly readErrors: number;
}

/** What `GET /status` says. */
export interface NodeStatus {
  readonly version: string;
  readonly pid: number;
  readonly uptimeMs: number;
  readonly readiness: Readiness;
  readonly snapshotterSocket: string | null;
  readonly mirrorUrl: string | null;
  readonly proxies: readonly {
    readonly host: string;
    /** How long it is asked after the others still, for having failed. */
    readonly restingMs: number;
    readonly lastError: string | null;
  }[];
  readonly cache: CacheFigures & { readonly directory: string };
  /** Null: this host takes no part. */
  readonly mesh: MeshStatus | null;
  readonly mounts: readonly MountStatus[];
}

export function imageName({ registry, repository }: LazyChain): string {
  return `${registry}/${repository}`;
}

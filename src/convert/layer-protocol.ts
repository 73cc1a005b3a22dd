import type { ConversionLimits } from './layer-limits.ts';
import type { ConversionProfile } from './profile.ts';

/** A layer to convert. */
export interface LayerTask {
  /** The layer as upstream has it, in a file. */
  readonly layerPath: string;
  /** Of that file, as the manifest gives it. */
  readonly digest: string;
  /** Digest of the uncompressed tar, as the config gives it. */
  readonly diffId: string;
  readonly chainId: string;
  readonly parentChainId: string | null;
  readonly profile: ConversionProfile;
  readonly limits: ConversionLimits;
  /** Where the blob is written; the tail spool stands beside it. */
  readonly outputPath: string;
}

/** What a thread gets when it starts. */
export interface ThreadData {
  /** Its number, from 1 on. */
  readonly number: number;
  /** Memory of its own {@link SharedWork}, and of the {@link Bell} of all. */
  readonly work: SharedArrayBuffer;
  readonly bell: SharedArrayBuffer;
  /** Of the thread alone; 0 is as the process. */
  readonly niceness: number;
}

/**
 * What a layer's thread is told. A turn is one layer: what is said of an earlier one comes too late, and must not be
 * taken for the one at hand.
 */
export type LayerRequest =
  | { readonly type: 'convert'; readonly turn: number; readonly task: LayerTask }
  /** The layers below are converted: their blobs, bottom first. Sent in answer to `staged`. */
  | { readonly type: 'assemble'; readonly turn: number; readonly parentPaths: readonly string[] }
  /** Nobody wants the layer any more. Says so to a thread that waits for the layers below. */
  | { readonly type: 'abort'; readonly turn: number }
  /** No image is under way: nothing of one has to stay open. */
  | { readonly type: 'release' }
  /** It is not needed any more. */
  | { readonly type: 'end' }
  /** The work of all other threads, of which it may do some when it has nothing else to do. */
  | { readonly type: 'neighbours'; readonly work: readonly SharedArrayBuffer[] };

export interface LayerResult {
  readonly blobDigest: string;
  readonly blobSizeBytes: number;
  /** The encoded chunk table. */
  readonly chunkTable: Uint8Array;
  /** Size of the uncompressed tar. */
  readonly tarSizeBytes: number;
  readonly entries: number;
}

/** What a layer's thread says. */
export type LayerMessage =
  /** Compressed bytes of the layer consumed so far. */
  | { readonly type: 'progress'; readonly bytes: number }
  /** All of the layer is read; what remains needs the layers below. */
  | { readonly type: 'staged' }
  | { readonly type: 'done'; readonly result: LayerResult }
  | { readonly type: 'failed'; readonly code: string; readonly message: string };

import type { LayerFormat } from '../oci/media-types.ts';
import type { ConversionProfile } from './profile.ts';

/** A layer to convert. */
export interface LayerTask {
  /** The layer as upstream has it, in a file whose digest was checked. */
  readonly layerPath: string;
  readonly compression: LayerFormat['compression'];
  /** Digest of the uncompressed tar, as the config gives it. */
  readonly diffId: string;
  readonly chainId: string;
  readonly parentChainId: string | null;
  readonly profile: ConversionProfile;
  /** Where the blob is written; the tail spool stands beside it. */
  readonly outputPath: string;
}

/** What a layer's thread is told. */
export type LayerRequest =
  | { readonly type: 'convert'; readonly task: LayerTask }
  /** The layers below are converted: their blobs, bottom first. Sent in answer to `staged`. */
  | { readonly type: 'assemble'; readonly parentPaths: readonly string[] };

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

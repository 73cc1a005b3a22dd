import type { ByteSource } from '../../format/byte-source.ts';
import { CHUNK_TABLE_DIGEST_ANNOTATION, OVERLAYBD_BLOB_DIGEST_ANNOTATION } from '../../oci/annotations.ts';
import { type Digest, isDigest } from '../../oci/digest.ts';
import type { ImageManifest } from '../../oci/manifest.ts';
import type { CompletionOptions, CompletionResult } from '../chunks/blob-completion.ts';
import type { ChunkCache, PeerSource } from '../chunks/chunk-cache.ts';
import type { ReadStats } from '../chunks/read-stats.ts';
import { ClientError } from '../errors.ts';

/** One DADI layer of a converted image. */
export interface ImageLayer {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly chunkTableDigest: Digest;
}

export interface LayerAccess {
  readonly cache: ChunkCache;
  readonly stats: ReadStats;
  /** Other hosts, asked before the proxies; null: there are none. */
  readonly mesh?: PeerSource | null;
  /** How long one range may take to come. */
  readonly readTimeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** A layer's blob, which may have to be told that the layer has been opened. */
export interface LayerSource extends ByteSource {
  /** What has been read so far is kept at hand as long as this is open. */
  keepRead?(): void;
  /** Of a remote one: gets the rest of it, to be independent of where it comes from. */
  complete?(options: CompletionOptions): Promise<CompletionResult>;
}

/** Converted layers, wherever they are. */
export interface LayeredImage {
  /** Bottom first. */
  readonly layers: readonly ImageLayer[];
  /** A layer's blob, every byte verified against its chunk table, to be closed by the caller. */
  openLayer(layer: ImageLayer, access: LayerAccess): Promise<LayerSource>;
}

/** A converted image, wherever it is. */
export interface ConvertedImage extends LayeredImage {
  /** As the user named it. */
  readonly reference: string;
  /** Of the converted manifest. */
  readonly manifestDigest: Digest;
  /** Ends connections; layers must be closed before. */
  close(): Promise<void>;
}

/** Whether an image's layers are overlaybd layers. */
export function isConverted(manifest: ImageManifest): boolean {
  return (
    manifest.layers.length > 0 &&
    manifest.layers.every((layer) => layer.annotations?.[OVERLAYBD_BLOB_DIGEST_ANNOTATION] !== undefined)
  );
}

/**
 * The layers of a converted image.
 * @param tableOf gives the digest of the chunk table of a layer that names none, as other tools make them
 * @throws ClientError ERR_IMAGE_INVALID; what `tableOf` throws
 */
export function convertedLayers(
  manifest: ImageManifest,
  tableOf: (layer: Omit<ImageLayer, 'chunkTableDigest'>, where: string) => Promise<Digest>,
): Promise<ImageLayer[]> {
  return Promise.all(
    manifest.layers.map(async ({ digest, size: sizeBytes, annotations = {} }, index) => {
      const where = `layer ${index + 1} of ${manifest.layers.length} (${digest})`;
      if (annotations[OVERLAYBD_BLOB_DIGEST_ANNOTATION] !== digest) {
        throw new ClientError('ERR_IMAGE_INVALID', `${where}: its annotation names another blob`);
      }
      const named = annotations[CHUNK_TABLE_DIGEST_ANNOTATION];
      if (named !== undefined && !isDigest(named)) {
        throw new ClientError('ERR_IMAGE_INVALID', `${where}: its chunk table's digest is none`);
      }
      const chunkTableDigest = named ?? (await tableOf({ digest, sizeBytes }, where));
      return { digest, sizeBytes, chunkTableDigest };
    }),
  );
}

import type { Digest } from '../../oci/digest.ts';
import type { ImageLayer } from '../image/image.ts';

/** A chain of converted layers and in whose name their blobs are asked for. JSON-serialisable: it is kept on disk. */
export interface LazyChain {
  /** Of the topmost layer (OCI image-spec, config.md, "Layer ChainID"). */
  readonly chainId: Digest;
  /** Upstream, as in references: `docker.io`. */
  readonly registry: string;
  /** `library/python` */
  readonly repository: string;
  /** The image by which it was found, where that is known: by it proxies make again what they have thrown away. */
  readonly manifestDigest?: Digest | undefined;
  /** Bottom first. */
  readonly layers: readonly ImageLayer[];
}

import type { Digest } from '../../oci/digest.ts';
import type { LazyChain } from './lazy-chain.ts';

/** An image as a runtime pulls it. */
export interface ImageName {
  /** Upstream, as in references: `docker.io`. */
  readonly registry: string;
  readonly repository: string;
  readonly manifestDigest: Digest;
}

export type ChainAnswer =
  | { readonly kind: 'converted'; readonly chain: LazyChain }
  /** Still so after the time that was to be waited. */
  | { readonly kind: 'pending'; readonly state: 'queued' | 'running' }
  /** Failed, left out, unknown; no proxy answers; no right to it. */
  | { readonly kind: 'unavailable'; readonly reason: string };

/** Tells which layers can be read lazily. */
export interface ChainLookup {
  /** Never rejects but with the signal's reason: a failing proxy never fails a pull. */
  find(
    chainId: Digest,
    image: ImageName,
    options: { readonly waitMs: number; readonly signal?: AbortSignal },
  ): Promise<ChainAnswer>;
}

import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import { type Digest, isDigest } from '../../oci/digest.ts';
import { parseReference } from '../../oci/reference.ts';
import type { ChainAnswer, ChainLookup, ImageName } from '../sources/chain-lookup.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';
import type { Labels } from './snapshots-api.ts';

/** The layer that a runtime unpacks into a snapshot, by its chain ID (containerd, package snapshots). */
export const REF_LABEL = 'containerd.io/snapshot.ref';

/** What a runtime says of the image it pulls (containerd, package snapshotters; CRI's snapshot annotations). */
const IMAGE_REF_LABEL = 'containerd.io/snapshot/cri.image-ref';
const MANIFEST_DIGEST_LABEL = 'containerd.io/snapshot/cri.manifest-digest';
const LAYER_DIGEST_LABEL = 'containerd.io/snapshot/cri.layer-digest';

/** How a layer gets into its snapshot. */
export type LayerDecision =
  /** It is there at once, and is read when it is needed. */
  | { readonly kind: 'lazy'; readonly chain: LazyChain }
  /** The runtime downloads and unpacks it. */
  | { readonly kind: 'ordinary'; readonly reason: string };

/** A layer that a runtime wants. */
export interface WantedLayer {
  readonly ref: string;
  readonly labels: Labels;
}

/** Null if it is no layer of an image but, say, a container's own. */
export function wantedLayer(labels: Labels): WantedLayer | null {
  const ref = labels[REF_LABEL];
  return ref === undefined ? null : { ref, labels };
}

/** Images whose pulls are under way at one time, more or less. */
const MAX_PULLS = 1000;

/** One pull of an image: all its layers together wait no longer than one of them may. */
interface Pull {
  readonly waitUntilMs: number;
  readonly asked: Set<string>;
}

/** Decides, layer by layer, whether it is read lazily. Each decision is logged, with its reason. */
export class LayerDecisions {
  readonly #lookup: ChainLookup;
  readonly #conversionWaitMs: number;
  readonly #logger: Logger;
  /** Ends all waiting. */
  readonly #stopping: AbortSignal;
  readonly #pulls = new LRUCache<string, Pull>({ max: MAX_PULLS });

  constructor(options: {
    readonly lookup: ChainLookup;
    readonly conversionWaitMs: number;
    readonly logger: Logger;
    readonly stopping: AbortSignal;
  }) {
    this.#lookup = options.lookup;
    this.#conversionWaitMs = options.conversionWaitMs;
    this.#logger = options.logger;
    this.#stopping = options.stopping;
  }

  /** Rejects with the signal's reason only: what cannot be found out is unpacked as ever. */
  async decide(layer: WantedLayer, signal: AbortSignal): Promise<LayerDecision> {
    const decision = await this.#find(layer, signal);
    const what = {
      image: layer.labels[IMAGE_REF_LABEL],
      layer: layer.labels[LAYER_DIGEST_LABEL],
      chainId: layer.ref,
      decision: decision.kind,
    };
    if (decision.kind === 'lazy') this.#logger.info(what, 'layer is read lazily');
    else this.#logger.info({ ...what, reason: decision.reason }, 'layer is downloaded and unpacked');
    return decision;
  }

  async #find({ ref, labels }: WantedLayer, signal: AbortSignal): Promise<LayerDecision> {
    if (!isDigest(ref)) return ordinary(`${JSON.stringify(ref)} is no chain ID`);
    const image = imageOf(labels);
    if (typeof image === 'string') return ordinary(image);
    const waitMs = this.#waitMs(ref, image);
    try {
      return decisionOf(
        await this.#lookup.find(ref, image, { waitMs, signal: AbortSignal.any([signal, this.#stopping]) }),
        waitMs,
      );
    } catch (error) {
      signal.throwIfAborted();
      if (this.#stopping.aborted) return ordinary('the node daemon is ending, and waits for no conversion');
      // Whatever is wrong with it, the pull goes on.
      this.#logger.error({ err: error, chainId: ref }, 'looking up a layer failed');
      return ordinary(`it could not be looked up: ${error instanceof Error ? error.message : error}`);
    }
  }

  /** A layer that was asked for before begins another pull. */
  #waitMs(chainId: Digest, { registry, repository, manifestDigest }: ImageName): number {
    const name = `${registry}/${repository}@${manifestDigest}`;
    const nowMs = performance.now();
    const known = this.#pulls.get(name);
    const pull =
      known === undefined || known.asked.has(chainId)
        ? { waitUntilMs: nowMs + this.#conversionWaitMs, asked: new Set<string>() }
        : known;
    pull.asked.add(chainId);
    this.#pulls.set(name, pull);
    return Math.max(0, Math.round(pull.waitUntilMs - nowMs));
  }
}

function decisionOf(answer: ChainAnswer, waitMs: number): LayerDecision {
  switch (answer.kind) {
    case 'converted':
      return { kind: 'lazy', chain: answer.chain };
    case 'pending':
      return ordinary(`its conversion is still ${answer.state} after ${waitMs} ms`);
    case 'unavailable':
      return ordinary(answer.reason);
  }
}

function ordinary(reason: string): LayerDecision {
  return { kind: 'ordinary', reason };
}

/** The image that labels name, or why they name none. */
function imageOf(labels: Labels): ImageName | string {
  const reference = labels[IMAGE_REF_LABEL];
  const manifestDigest = labels[MANIFEST_DIGEST_LABEL];
  if (reference === undefined || manifestDigest === undefined) {
    return `the runtime does not say of which image it is (no label ${reference === undefined ? IMAGE_REF_LABEL : MANIFEST_DIGEST_LABEL}); for Kubernetes, set disable_snapshot_annotations = false in containerd's configuration`;
  }
  if (!isDigest(manifestDigest)) return `${MANIFEST_DIGEST_LABEL} is no digest: ${manifestDigest}`;
  try {
    const { registry, repository } = parseReference(reference);
    return { registry, repository, manifestDigest };
  } catch (error) {
    return `${IMAGE_REF_LABEL}: ${error instanceof Error ? error.message : error}`;
  }
}

import { unlessAborted } from '../../format/unless-aborted.ts';
import { chainIds } from '../../oci/chain-id.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Answer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { parsePathDigest } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { BlobStore } from '../../store/blob-store.ts';
import type { Catalog } from '../../store/catalog.ts';
import { PRIORITY } from '../../store/conversion-priority.ts';
import type { Access } from '../access/access.ts';
import type { Blobs } from '../content/blobs.ts';
import { type Manifests, readManifest, type ServedManifest } from '../content/manifests.ts';
import { required, waitMs } from '../http/parameters.ts';
import { isSameRepository, type Target, type Upstreams } from '../upstream/upstreams.ts';
import type { ConversionNews } from './conversion-news.ts';
import { type ConversionQueue, whyNotConverted } from './conversion-queue.ts';
import { type ConversionStatus, conversionStatus } from './conversion-status.ts';
import type { ConvertedImages } from './converted.ts';
import { readConfig } from './image-converter.ts';
import type { WholeImages } from './whole-images.ts';

/** What nodes are told about converted layers from. */
export interface ChainParts {
  readonly access: Access;
  readonly images: Pick<ConvertedImages, 'byOriginal'>;
  readonly upstreams: Pick<Upstreams, 'choose'>;
  readonly manifests: Manifests;
  readonly blobs: Blobs;
  readonly store: Pick<BlobStore, 'stat'>;
  readonly catalog: Catalog;
  readonly profile: string;
  readonly queue: Pick<ConversionQueue, 'offer'>;
  readonly news: ConversionNews;
  readonly whole: WholeImages;
}

/** A layer on those below it, and its converted form if there is one. Sizes in bytes. */
interface Chain {
  readonly chainId: Digest;
  /** Of the layers below; null for the lowest. */
  readonly lowerChainId: Digest | null;
  /** As upstream has it. */
  readonly original: { readonly digest: Digest; readonly size: number };
  readonly converted: {
    readonly digest: Digest;
    readonly size: number;
    readonly chunkTable: Digest;
  } | null;
}

/** How an image's conversion stands; `none` where there will not be one. */
type ImageState =
  | Pick<ConversionStatus, 'state' | 'layersDone' | 'layersTotal' | 'bytesDone' | 'bytesTotal' | 'error'>
  | { readonly state: 'none'; readonly error: string };

interface NodeImage {
  readonly target: Target;
  readonly served: ServedManifest;
  readonly layers: readonly Omit<Chain, 'converted'>[];
}

/** How soon a layer is seen that another replica has converted. */
const POLL_MS = 1_000;

/**
 * GET /dadi/v1/chains/<chain ID>?repository=NAME&image=<digest>[&ns=UPSTREAM][&wait=SECONDS]: the converted form of one
 * of an image's layers. Who may pull the image may ask, and can pull the blobs from then on. To ask queues it.
 * @throws RequestError MANIFEST_UNKNOWN, whose detail says how the conversion stands, if it is not there (yet);
 *   DIGEST_INVALID, NAME_INVALID; RegistryError
 */
export async function answerChain(
  parts: ChainParts,
  chainIdText: string,
  request: ServedRequest,
): Promise<Answer> {
  await parts.access.admit(request);
  const chainId = parsePathDigest(chainIdText);
  const imageDigest = parsePathDigest(required(request.query, 'image'));
  const target = await authorised(parts, imageDigest, request);
  const image = await nodeImage(parts, target, imageDigest, request.signal);
  const layers = image.layers.filter((layer) => layer.chainId === chainId);
  if (layers.length === 0) {
    throw new RequestError('MANIFEST_UNKNOWN', `${chainId} is no chain of the image ${imageDigest}`, {
      detail: { state: 'unknown' },
    });
  }
  const { chains, state } = await waitForChains(parts, { ...image, layers }, request);
  const [chain] = chains;
  if (chain === undefined || chain.converted === null) {
    const { error, ...progress } = state;
    throw new RequestError(
      'MANIFEST_UNKNOWN',
      `the chain ${chainId} is not converted: ${error ?? state.state}`,
      {
        detail: { ...progress, reason: error },
      },
    );
  }
  return jsonAnswer({ profile: parts.profile, image: imageDigest, ...chain });
}

/**
 * GET /dadi/v1/images/<manifest digest>?repository=NAME[&ns=UPSTREAM][&wait=SECONDS]: all layers of an image, bottom
 * first, with their converted forms as far as they are there. Rights and effects as {@link answerChain}.
 * @throws RequestError DIGEST_INVALID, NAME_INVALID, MANIFEST_UNKNOWN (it is no image); RegistryError
 */
export async function answerImage(
  parts: ChainParts,
  digestText: string,
  request: ServedRequest,
): Promise<Answer> {
  await parts.access.admit(request);
  const digest = parsePathDigest(digestText);
  const target = await authorised(parts, digest, request);
  const known = parts.whole.find(target.where, digest);
  if (known !== null) return jsonAnswer(known);

  const image = await nodeImage(parts, target, digest, request.signal);
  const { chains, state } = await waitForChains(parts, image, request);
  const answer = { profile: parts.profile, image: digest, ...state, chains };
  const isWhole = state.state === 'done' && chains.every(({ converted }) => converted !== null);
  if (isWhole) parts.whole.keep(target.where, digest, answer);
  return jsonAnswer(answer);
}

function authorised(parts: ChainParts, digest: Digest, request: ServedRequest): Promise<Target> {
  const { query } = request;
  const name = required(query, 'repository');
  const asked = {
    name,
    target: parts.upstreams.choose(name, query.get('ns')),
    claim: { kind: 'manifest', reference: digest },
  } as const;
  return parts.access.authorise(asked, request);
}

/** The image as the repository has it, by its own or upstream's word. */
async function nodeImage(
  parts: ChainParts,
  target: Target,
  digest: Digest,
  signal: AbortSignal,
): Promise<NodeImage> {
  const served = await unlessAborted(parts.manifests.byDigest(target, digest), signal);
  const manifest = readManifest(served);
  if (manifest === null || manifest.kind !== 'image') {
    const what = manifest === null ? 'no manifest that can be read' : `an ${manifest.kind}`;
    throw new RequestError('MANIFEST_UNKNOWN', `${digest} is ${what}, not one image`);
  }
  const config = await readConfig(parts.blobs, target, manifest, signal);
  const ids = chainIds(config.rootfs.diff_ids);
  const layers = manifest.layers.flatMap(({ digest: layer, size }, index) => {
    const chainId = ids[index];
    if (chainId === undefined) return [];
    return [{ chainId, lowerChainId: ids[index - 1] ?? null, original: { digest: layer, size } }];
  });
  return { target, served, layers };
}

/** Looks until all layers are there, the conversion has ended or will never be, or the caller's time is over. */
async function waitForChains(
  parts: ChainParts,
  image: NodeImage,
  { query, signal }: ServedRequest,
): Promise<{ readonly chains: readonly Chain[]; readonly state: ImageState }> {
  const untilMs = Date.now() + waitMs(query.get('wait'));
  for (let isQueued = false; ; ) {
    const news = parts.news.next;
    // Shown to a repository that has the whole original, if it was converted for another one.
    if (parts.access.isPerRepository) await parts.images.byOriginal(image.target, image.served.digest);
    const chains = await Promise.all(image.layers.map((layer) => chainOf(parts, image.target, layer)));
    const isWhole = chains.every(({ converted }) => converted !== null);
    if (!isWhole && !isQueued) {
      await parts.queue.offer(image.target.where, image.served, PRIORITY.waitingNode);
      isQueued = true;
    }
    const state = await stateOf(parts, image);
    const isOver = state.state !== 'queued' && state.state !== 'running';
    const restMs = untilMs - Date.now();
    if (isWhole || isOver || restMs <= 0 || signal.aborted || parts.news.closed.aborted) {
      await show(parts, image.target, chains);
      return { chains, state };
    }
    await parts.news.waitFor(news, Math.min(restMs, POLL_MS * (0.75 + Math.random() / 2)), signal);
  }
}

async function chainOf(
  { access, catalog, store, profile }: ChainParts,
  { where }: Target,
  layer: Omit<Chain, 'converted'>,
): Promise<Chain> {
  const record = await catalog.layer(layer.chainId, profile);
  if (record === null) return { ...layer, converted: null };
  const { blobDigest, blobSizeBytes, chunkTableDigest } = record;
  // A config can claim the chain of an image whose layers are somebody else's.
  const isTheirs = !access.isPerRepository || (await catalog.isLinked(where, blobDigest));
  if (!isTheirs) return { ...layer, converted: null };
  const found = await Promise.all([store.stat(blobDigest), store.stat(chunkTableDigest)]);
  if (found.includes(null)) return { ...layer, converted: null };
  return {
    ...layer,
    converted: { digest: blobDigest, size: blobSizeBytes, chunkTable: chunkTableDigest },
  };
}

async function stateOf(
  { access, catalog, profile }: ChainParts,
  { served, target }: NodeImage,
): Promise<ImageState> {
  const record = await catalog.conversions.get(served.digest, profile);
  if (record === null) {
    const manifest = readManifest(served);
    const reason = manifest === null ? null : whyNotConverted(manifest);
    return { state: 'none', error: reason ?? 'nobody has asked for it' };
  }
  const status = await conversionStatus(record, catalog.conversions);
  const { state, layersDone, layersTotal, bytesDone, bytesTotal } = status;
  // What went wrong may name another repository, which is none of this one's business where rights differ.
  const isOpen = !access.isPerRepository || isSameRepository(record, target.where);
  const error = isOpen ? status.error : status.errorCode;
  return { state, layersDone, layersTotal, bytesDone, bytesTotal, error };
}

/** From now on the repository may show these layers. */
async function show({ catalog }: ChainParts, { where }: Target, chains: readonly Chain[]): Promise<void> {
  const blobs = chains.flatMap(({ converted }) =>
    converted === null ? [] : [converted.digest, converted.chunkTable],
  );
  await catalog.link(where, ...blobs);
}

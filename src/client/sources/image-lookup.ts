import { setTimeout as sleep } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { chainIds } from '../../oci/chain-id.ts';
import { type Digest, isDigest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import { parseImageConfig, parseManifest } from '../../oci/manifest.ts';
import type { RegistryClient } from '../../oci/registry-client.ts';
import { convertedLayers, type ImageLayer, isConverted } from '../image/image.ts';
import type { ChainAnswer, ImageName } from './chain-lookup.ts';
import type { LazyChain } from './lazy-chain.ts';
import type { RepositoryAt } from './source-credentials.ts';

/** How proxies are asked. */
export interface ImageSources {
  ask<T>(
    where: RepositoryAt,
    attempt: (client: RegistryClient) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T>;
  /** Of the table that a proxy makes for a blob that came without one; has it fetch the blob first. */
  tableDigest(
    where: RepositoryAt,
    blob: Omit<ImageLayer, 'chunkTableDigest'>,
    signal: AbortSignal,
  ): Promise<Digest>;
}

/** All that is known of an image for now. */
interface KnownImage {
  readonly chains: ReadonlyMap<Digest, LazyChain>;
  /** Whether those that are missing may still come; else why not. */
  readonly rest:
    | { readonly state: 'queued' | 'running' }
    | { readonly state: 'over'; readonly reason: string };
}

const NO_SUCH_CHAIN = { state: 'over', reason: 'the image has no such chain' } as const;

/** An image that is converted stays so. */
const WHOLE_TTL_MS = 60_000;
/** A failure may be over soon; but each layer of an image is asked for, and need not find out for itself. */
const FAILURE_TTL_MS = 5_000;
/** So long what a proxy has lost is waited for; and not asked for by the next read again. */
const RENEWAL_MS = 30_000;
/** A proxy may say for a second that it has what it has just lost: then it is asked again sooner. */
const DOUBTED_MS = 2_000;
const MAX_IMAGES = 1024;
/** The longest that a proxy is asked to wait at a time: a lower layer may be there before the whole image is. */
const POLL_SECONDS = 3;
const POLL_PAUSE_MS = 100;
/** On one question, however many proxies are asked in turn. */
const QUESTION_TIMEOUT_MS = 15_000;
/** Images in the overlaybd format cannot be unpacked: there is nothing to do but wait until a proxy has all of it. */
const STOCK_TIMEOUT_MS = 15 * 60_000;
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;
const MAX_CONFIG_BYTES = 8 * 1024 * 1024;

const digestSchema = z.string().refine(isDigest);
const answerSchema = z.object({
  state: z.enum(['queued', 'running', 'done', 'failed', 'left', 'none']),
  error: z.string().nullish(),
  chains: z.array(
    z.object({
      chainId: digestSchema,
      converted: z
        .object({ digest: digestSchema, size: z.int().nonnegative(), chunkTable: digestSchema })
        .nullable(),
    }),
  ),
});

/** The layers of images that can be read lazily, asked for image by image for all who want one of its chains. */
export class ImageLookup {
  readonly #sources: ImageSources;
  readonly #closed: AbortSignal;
  readonly #known = new LRUCache<string, KnownImage>({ max: MAX_IMAGES });
  /** Those that were asked for anew of late. */
  readonly #renewed = new LRUCache<string, true>({ max: MAX_IMAGES, ttl: RENEWAL_MS });
  readonly #questions = new Map<string, Promise<KnownImage>>();

  constructor(sources: ImageSources, closed: AbortSignal) {
    this.#sources = sources;
    this.#closed = closed;
  }

  /** Never rejects. */
  async find(chainId: Digest, image: ImageName, waitMs: number): Promise<ChainAnswer> {
    const untilMs = performance.now() + waitMs;
    // At first without waiting: it may be there although the layers above it are not.
    for (let leftMs = 0; ; leftMs = untilMs - performance.now()) {
      const { chains, rest } = await this.#look(image, leftMs);
      const chain = chains.get(chainId);
      if (chain !== undefined) return { kind: 'converted', chain };
      if (rest.state === 'over') return { kind: 'unavailable', reason: rest.reason };
      if (performance.now() >= untilMs) return { kind: 'pending', state: rest.state };
      // A proxy that is being stopped does not wait.
      await sleep(POLL_PAUSE_MS);
    }
  }

  /**
   * Has the proxies make again what they have lost of a chain: to ask for it queues its image, and once it is there,
   * to be told of it makes them show it.
   */
  renew(chainId: Digest, image: ImageName): void {
    const key = keyOf(image);
    if (this.#renewed.has(key)) return;
    const isSaidToBeThere = this.#known.get(key)?.rest === NO_SUCH_CHAIN;
    this.#renewed.set(key, true, { ttl: isSaidToBeThere ? DOUBTED_MS : RENEWAL_MS });
    this.#known.delete(key);
    void this.find(chainId, image, RENEWAL_MS);
  }

  #look(image: ImageName, waitMs: number): KnownImage | Promise<KnownImage> {
    const key = keyOf(image);
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const waitSeconds = Math.max(0, Math.min(Math.ceil(waitMs / 1000), POLL_SECONDS));
    // One that does not wait is not kept by those that do.
    const question = `${waitSeconds > 0} ${key}`;
    let pending = this.#questions.get(question);
    if (pending === undefined) {
      pending = this.#ask(image, waitSeconds)
        .catch((error: unknown) => over(error instanceof Error ? error.message : String(error)))
        .then((found) => {
          if (found.rest.state === 'over') {
            const ttl = found.chains.size > 0 ? WHOLE_TTL_MS : FAILURE_TTL_MS;
            this.#known.set(key, found, { ttl });
          }
          return found;
        })
        .finally(() => this.#questions.delete(question));
      this.#questions.set(question, pending);
    }
    return pending;
  }

  async #ask(image: ImageName, waitSeconds: number): Promise<KnownImage> {
    const query = new URLSearchParams({ repository: image.repository, wait: String(waitSeconds) });
    const path = `dadi/v1/images/${image.manifestDigest}?${query}`;
    const signal = AbortSignal.any([this.#closed, AbortSignal.timeout(QUESTION_TIMEOUT_MS)]);
    const answer = await this.#sources
      .ask(image, async (client) => readAnswer(client, path, image, signal), signal)
      .catch((error: unknown) => {
        // A proxy that converts nothing has no such answer, but may have images that were converted elsewhere.
        if (error instanceof RegistryError && error.code === 'ERR_REGISTRY_NOT_FOUND') return error;
        throw error;
      });
    if (answer instanceof RegistryError) return (await this.#overlaybd(image)) ?? over(answer.message);
    const chains = chainsOf(image, answer.chains);
    const { state, error } = answer;
    if (chains.size > 0 && chains.size === answer.chains.length) return { chains, rest: NO_SUCH_CHAIN };
    if (state === 'queued' || state === 'running') return { chains, rest: { state } };
    if (chains.size === 0) {
      const own = await this.#overlaybd(image);
      if (own !== null) return own;
    }
    return { chains, rest: { state: 'over', reason: error ?? `the proxy has no such layer (${state})` } };
  }

  /** The chains of an image whose own layers are overlaybd layers; null if it is another. */
  async #overlaybd(image: ImageName): Promise<KnownImage | null> {
    const { repository, manifestDigest } = image;
    const signal = AbortSignal.any([this.#closed, AbortSignal.timeout(QUESTION_TIMEOUT_MS)]);
    const manifest = await this.#sources.ask(
      image,
      async (client) => {
        const { bytes, mediaType } = await client.manifest(repository, manifestDigest, { signal });
        return parseManifest(bytes, mediaType);
      },
      signal,
    );
    if (manifest.kind !== 'image' || !isConverted(manifest)) return null;
    const options = { maxBytes: MAX_CONFIG_BYTES, signal };
    const config = await this.#sources.ask(
      image,
      (client) => client.readBlob(repository, manifest.config.digest, options),
      signal,
    );
    const ids = chainIds(parseImageConfig(config).rootfs.diff_ids);
    const patience = AbortSignal.any([this.#closed, AbortSignal.timeout(STOCK_TIMEOUT_MS)]);
    const layers = await convertedLayers(manifest, (layer) =>
      this.#sources.tableDigest(image, layer, patience),
    );
    const described = layers.flatMap((layer, index) => {
      const chainId = ids[index];
      return chainId === undefined ? [] : [{ chainId, layer }];
    });
    return {
      chains: stacked(image, described),
      rest: { state: 'over', reason: 'the image has no such chain' },
    };
  }
}

async function readAnswer(
  client: RegistryClient,
  path: string,
  { repository, manifestDigest }: ImageName,
  signal: AbortSignal,
): Promise<z.infer<typeof answerSchema>> {
  const { bytes } = await client.extension(path, repository, { maxBytes: MAX_ANSWER_BYTES, signal });
  try {
    return answerSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch {
    const context = { host: client.host, repository, reference: manifestDigest };
    const message = 'the answer is not one of a dadi proxy; is it one, and not older than this node?';
    throw new RegistryError('ERR_REGISTRY_PROTOCOL', context, message);
  }
}

/** Those with all their layers converted. */
function chainsOf(
  image: ImageName,
  chains: z.infer<typeof answerSchema>['chains'],
): ReadonlyMap<Digest, LazyChain> {
  const whole: { chainId: Digest; layer: ImageLayer }[] = [];
  for (const { chainId, converted } of chains) {
    if (converted === null) break;
    const { digest, size, chunkTable } = converted;
    whole.push({ chainId, layer: { digest, sizeBytes: size, chunkTableDigest: chunkTable } });
  }
  return stacked(image, whole);
}

function stacked(
  { registry, repository, manifestDigest }: ImageName,
  layers: readonly { readonly chainId: Digest; readonly layer: ImageLayer }[],
): ReadonlyMap<Digest, LazyChain> {
  const all = layers.map(({ layer }) => layer);
  return new Map(
    layers.map(({ chainId }, index) => [
      chainId,
      { chainId, registry, repository, manifestDigest, layers: all.slice(0, index + 1) },
    ]),
  );
}

function keyOf({ registry, repository, manifestDigest }: ImageName): string {
  return `${registry}/${repository}@${manifestDigest}`;
}

function over(reason: string): KnownImage {
  return { chains: new Map(), rest: { state: 'over', reason } };
}

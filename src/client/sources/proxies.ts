import { setTimeout as sleep } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import pLimit, { type LimitFunction } from 'p-limit';
import { type ChunkTable, decodeChunkTable } from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, digestOf, shortDigest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import type { RegistryClient } from '../../oci/registry-client.ts';
import type { RegistryTimeouts } from '../../oci/registry-connections.ts';
import type { RegistryTls } from '../../oci/registry-tls.ts';
import type { CachedBlob } from '../chunks/cached-blob.ts';
import { DEFAULT_READ_TIMEOUT_MS } from '../chunks/chunk-cache.ts';
import type { FetchRange } from '../chunks/chunk-fetcher.ts';
import { ClientError } from '../errors.ts';
import type { ImageLayer, LayerAccess, LayeredImage } from '../image/image.ts';
import type { ChainAnswer, ChainLookup, ImageName } from './chain-lookup.ts';
import { askForChunkTable, maxChunkTableBytes } from './chunk-table-request.ts';
import { ImageLookup } from './image-lookup.ts';
import type { LazyChain } from './lazy-chain.ts';
import { ProxyEndpoint, type ProxyState } from './proxy-endpoint.ts';
import type { RepositoryAt, SourceCredentials } from './source-credentials.ts';

export interface ProxiesOptions {
  /** Where they answer, the preferred one first. */
  readonly urls: readonly URL[];
  readonly credentials: SourceCredentials;
  /** Null for what Node.js trusts by itself. */
  readonly tls?: RegistryTls | null;
  readonly timeouts?: Partial<RegistryTimeouts>;
  /** How long a proxy that failed is asked after the others. */
  readonly restMs?: number;
}

/** Something asked of one proxy. */
type Attempt<T> = (client: RegistryClient, proxy: ProxyEndpoint) => Promise<T>;

const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 2_000;
/** Ranges of one repository under way at once: fewer than there are connections, so that it holds up no other one. */
const MAX_RANGES = 16;
const MAX_REPOSITORIES = 1024;
/** Tables that were asked for to learn their digests are opened soon after. */
const MAX_TABLE_BYTES = 32 * 1024 * 1024;

/**
 * Several dadi proxies with the same content: each request goes to the first that is well and, where that fails,
 * to the next; one that failed is asked last for a while. Manifests and converted layers are verified by digest.
 * For the chunk tables of other blobs the proxies' word is taken.
 */
export class Proxies implements ChainLookup {
  readonly credentials: SourceCredentials;
  readonly #proxies: readonly ProxyEndpoint[];
  readonly #images: ImageLookup;
  /** By their own digests. */
  readonly #tables = new LRUCache<Digest, Buffer>({
    maxSize: MAX_TABLE_BYTES,
    sizeCalculation: ({ length }) => length,
  });
  /** Whose answers are being looked at. */
  readonly #senders = new WeakMap<Buffer, ProxyEndpoint>();
  /** By repository. */
  readonly #limits = new LRUCache<string, LimitFunction>({ max: MAX_REPOSITORIES });
  readonly #closed = new AbortController();

  constructor({ urls, ...options }: ProxiesOptions) {
    this.credentials = options.credentials;
    this.#proxies = urls.map((url) => new ProxyEndpoint({ ...options, url }));
    this.#images = new ImageLookup(
      {
        ask: (where, attempt, signal) => this.#ask(where, attempt, signal),
        tableDigest: async (where, layer, signal) => {
          const bytes = await this.#requestTable(where, layer.digest, signal);
          const digest = digestOf(bytes);
          this.#tables.set(digest, bytes);
          return digest;
        },
      },
      this.#closed.signal,
    );
  }

  /** In the order in which they are preferred. */
  get states(): readonly ProxyState[] {
    return this.#proxies.map((proxy) => proxy.state);
  }

  async find(
    chainId: Digest,
    image: ImageName,
    options: { readonly waitMs: number; readonly signal?: AbortSignal },
  ): Promise<ChainAnswer> {
    return unlessAborted(this.#images.find(chainId, image, options.waitMs), options.signal);
  }

  /**
   * A layer's blob, every byte verified, to be closed by the caller. Reads of it ask all proxies again and again,
   * whatever they say, until they have taken `access.readTimeoutMs`.
   * @param chain whose layer it is; if it knows its image, proxies convert again what they have thrown away
   * @throws RegistryError, FormatError; ClientError ERR_IMAGE_INVALID; the signal's reason
   */
  async openLayer(
    layer: ImageLayer,
    chain: Omit<LazyChain, 'layers'>,
    access: LayerAccess,
  ): Promise<CachedBlob> {
    const { cache, stats, mesh = null, readTimeoutMs = DEFAULT_READ_TIMEOUT_MS } = access;
    const kept = cache.chunkTable(layer.chunkTableDigest);
    const table =
      kept?.blobSize === layer.sizeBytes
        ? kept
        : await this.#tableOf(layer, chain, { ...access, mesh, readTimeoutMs });
    return cache.openBlob({
      digest: layer.digest,
      table,
      stats,
      mesh,
      name: `${chain.registry}/${chain.repository}`,
      timeoutMs: readTimeoutMs,
      fetch: this.#ranges(chain, layer.digest, () => this.#renew(chain)),
      onWrongBytes: (bytes) => this.#distrust(bytes, layer.digest),
    });
  }

  /** A chain to be opened as a device. */
  image(chain: LazyChain): LayeredImage {
    return {
      layers: chain.layers,
      openLayer: (layer, access) => this.openLayer(layer, chain, access),
    };
  }

  /** Gets ranges of a blob from the first proxy that has them; the caller verifies them, and asks again. */
  fetchRange(registry: string, repository: string, digest: Digest): FetchRange {
    return this.#ranges({ registry, repository }, digest);
  }

  /** Ends running requests. */
  async close(): Promise<void> {
    this.#closed.abort(new Error('the proxies are not asked any more'));
    await Promise.all(this.#proxies.map((proxy) => proxy.close()));
  }

  /** @param onMissing called where no proxy has it, and one that answers lacks it: others may be away for long */
  #ranges(where: RepositoryAt, digest: Digest, onMissing: () => void = () => {}): FetchRange {
    const limit = this.#limitOf(where);
    const range: FetchRange = async (offset, length, signal, onFilled) => {
      signal.throwIfAborted();
      let isMissing = false;
      const attempt = async (client: RegistryClient, proxy: ProxyEndpoint) => {
        try {
          const bytes = await client.readBlobRange(where.repository, digest, offset, length, {
            signal,
            ...(onFilled !== undefined && { onFilled }),
          });
          this.#senders.set(bytes, proxy);
          return bytes;
        } catch (error) {
          isMissing ||= isNotFound(error);
          throw error;
        }
      };
      try {
        return await this.#ask(where, attempt, signal);
      } catch (error) {
        if (isMissing) onMissing();
        throw error;
      }
    };
    return (...asked) => limit(() => range(...asked));
  }

  #limitOf({ registry, repository }: RepositoryAt): LimitFunction {
    const name = `${registry}/${repository}`;
    const limit = this.#limits.get(name) ?? pLimit(MAX_RANGES);
    this.#limits.set(name, limit);
    return limit;
  }

  /** Has the proxies make a chain again: the next attempt may get it. */
  #renew({ registry, repository, chainId, manifestDigest }: Omit<LazyChain, 'layers'>): void {
    if (manifestDigest !== undefined) this.#images.renew(chainId, { registry, repository, manifestDigest });
  }

  #distrust(bytes: Buffer, digest: Digest): void {
    const proxy = this.#senders.get(bytes);
    if (proxy === undefined) return;
    const context = { host: proxy.host, repository: null, reference: digest };
    const message = 'the proxy sent other bytes than those of the blob';
    proxy.failed(new RegistryError('ERR_REGISTRY_DIGEST', context, message));
  }

  async #tableOf(
    layer: ImageLayer,
    where: RepositoryAt,
    access: Pick<LayerAccess, 'signal'> & Required<Pick<LayerAccess, 'mesh' | 'readTimeoutMs'>>,
  ): Promise<ChunkTable> {
    const { signal, mesh, readTimeoutMs } = access;
    const timeout = AbortSignal.timeout(readTimeoutMs);
    const ends = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
    const bytes =
      this.#tables.get(layer.chunkTableDigest) ??
      (await mesh?.table({ blob: layer.digest, table: layer.chunkTableDigest }, ends)) ??
      (await this.#tableBlob(layer, where, ends)) ??
      (await this.#requestTable(where, layer.digest, ends));
    const what = `layer ${shortDigest(layer.digest)}`;
    if (digestOf(bytes) !== layer.chunkTableDigest) {
      const message = `${what}: the proxy has another chunk table for it than ${layer.chunkTableDigest}`;
      throw new ClientError('ERR_IMAGE_INVALID', message);
    }
    const table = decodeChunkTable(bytes);
    if (table.blobSize !== layer.sizeBytes) {
      throw new ClientError(
        'ERR_IMAGE_INVALID',
        `${what}: its chunk table is that of a blob of ${table.blobSize} bytes, the layer has ${layer.sizeBytes}`,
      );
    }
    // From here on the cache has it.
    this.#tables.delete(layer.chunkTableDigest);
    return table;
  }

  /** Null where no proxy has it: one that a proxy made for a blob of others' making is no blob itself. */
  async #tableBlob(
    { sizeBytes, chunkTableDigest }: ImageLayer,
    where: RepositoryAt,
    signal: AbortSignal,
  ): Promise<Buffer | null> {
    const limits = { maxBytes: maxChunkTableBytes(sizeBytes), signal };
    try {
      return await this.#insist(
        where,
        (client) => client.readBlob(where.repository, chunkTableDigest, limits),
        signal,
        isNoneOfOurs,
      );
    } catch (error) {
      if (isNotFound(error)) return null;
      throw error;
    }
  }

  #requestTable(where: RepositoryAt, digest: Digest, signal: AbortSignal): Promise<Buffer> {
    const blob = { repository: where.repository, digest };
    return askForChunkTable((attempt) => this.#ask(where, attempt, signal), blob, signal);
  }

  /** What the first proxy makes of it that succeeds. */
  async #ask<T>(where: RepositoryAt, attempt: Attempt<T>, signal: AbortSignal | undefined): Promise<T> {
    const ends = signal === undefined ? this.#closed.signal : AbortSignal.any([signal, this.#closed.signal]);
    let failure: unknown = null;
    for (const proxy of this.#inOrder()) {
      try {
        return await proxy.ask(where, (client) => attempt(client, proxy), ends);
      } catch (error) {
        ends.throwIfAborted();
        if (!(error instanceof RegistryError)) throw error;
        // That one lacks it says less than that another one cannot be asked.
        if (failure === null || isNotFound(failure)) failure = error;
      }
    }
    throw failure ?? new ClientError('ERR_NO_PROXY', 'no dadi proxy is configured: name one');
  }

  /** The same, again and again until it succeeds or the signal fires: what is refused today may be let in later. */
  async #insist<T>(
    where: RepositoryAt,
    attempt: Attempt<T>,
    signal: AbortSignal,
    isFinal: (error: RegistryError) => boolean = () => false,
  ): Promise<T> {
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, MAX_PAUSE_MS)) {
      try {
        return await this.#ask(where, attempt, signal);
      } catch (error) {
        if (!(error instanceof RegistryError) || isFinal(error)) throw error;
        if (signal.aborted || this.#closed.signal.aborted) throw error;
        await sleep(pauseMs * (0.5 + Math.random() / 2), undefined, { signal });
      }
    }
  }

  #inOrder(): readonly ProxyEndpoint[] {
    const well = this.#proxies.filter((proxy) => !proxy.isResting);
    return [...well, ...this.#proxies.filter((proxy) => !well.includes(proxy))];
  }
}

/** When something is opened, somebody is there to be told. */
function isNoneOfOurs({ code }: RegistryError): boolean {
  return code === 'ERR_REGISTRY_NOT_FOUND' || code === 'ERR_REGISTRY_UNAUTHORIZED';
}

function isNotFound(error: unknown): boolean {
  return error instanceof RegistryError && error.code === 'ERR_REGISTRY_NOT_FOUND';
}

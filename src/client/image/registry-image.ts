import pLimit from 'p-limit';
import { type ChunkTable, decodeChunkTable } from '../../format/chunk-table.ts';
import { OVERLAYBD_ARTIFACT_TYPE } from '../../oci/annotations.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { RegistryError, type RegistryErrorCode } from '../../oci/errors.ts';
import { type ImageManifest, parseManifest } from '../../oci/manifest.ts';
import { selectPlatform } from '../../oci/platform.ts';
import { parseReference } from '../../oci/reference.ts';
import { RegistryClient } from '../../oci/registry-client.ts';
import { registryUrl } from '../../oci/registry-url.ts';
import type { CachedBlob } from '../chunks/cached-blob.ts';
import { FetchRefusedError } from '../chunks/chunk-fetcher.ts';
import { ClientError } from '../errors.ts';
import { askForChunkTable, maxChunkTableBytes } from '../sources/chunk-table-request.ts';
import { type ConversionProgress, waitForConversion } from './conversion-wait.ts';
import {
  type ConvertedImage,
  convertedLayers,
  type ImageLayer,
  isConverted,
  type LayerAccess,
} from './image.ts';

export interface RegistryImageOptions {
  /** `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`: the original image or a converted one. */
  readonly reference: string;
  /** A dadi proxy to read it through; without one, the reference's host is asked itself. */
  readonly proxy?: URL;
  readonly plainHttp?: boolean;
  /** How long to wait for a conversion, 0 for not at all. */
  readonly waitMs: number;
  readonly onProgress?: (progress: ConversionProgress) => void;
  readonly signal?: AbortSignal;
}

/** Range requests of one image under way at once. */
const MAX_REQUESTS = 16;
/** For what the proxy has already. */
const TABLE_TIMEOUT_MS = 20_000;
/** Answers, not failures: the blob is not there, or not for us, or cannot be read in parts. */
const REFUSALS: ReadonlySet<RegistryErrorCode> = new Set([
  'ERR_REGISTRY_NOT_FOUND',
  'ERR_REGISTRY_UNAUTHORIZED',
  'ERR_REGISTRY_CREDENTIALS',
  'ERR_REGISTRY_PROTOCOL',
]);

interface Found {
  readonly digest: Digest;
  readonly manifest: ImageManifest;
}

/**
 * Opens an image at a registry: the image of this machine's platform, in its converted form (it is that; or
 * the registry names one as its referrer; or, at a dadi proxy, once it has been converted).
 * @throws ClientError, RegistryError, OciError; the signal's reason
 */
export async function openRegistryImage(options: RegistryImageOptions): Promise<ConvertedImage> {
  const { proxy, plainHttp } = options;
  const reference = parseReference(options.reference);
  const host = registryUrl(reference.registry, plainHttp === undefined ? {} : { plainHttp });
  const baseUrl =
    proxy === undefined ? host : new URL(proxy.href.endsWith('/') ? proxy.href : `${proxy.href}/`);
  const repository =
    proxy === undefined ? reference.repository : `${reference.registry}/${reference.repository}`;
  const client = new RegistryClient({ baseUrl });
  try {
    const finder = new Finder(client, baseUrl, repository, options);
    const { digest, manifest } = await finder.find(reference.digest ?? reference.tag ?? 'latest');
    const tables = new MadeTables(client, repository, options);
    const layers = await convertedLayers(manifest, (layer, where) => tables.make(layer, where));
    return new RegistryImage({ client, repository, reference: options.reference, digest, layers, tables });
  } catch (error) {
    await client.close();
    throw error;
  }
}

/** What a registry says that it will say again. */
function refusedIfAnswered(cause: unknown): never {
  if (!(cause instanceof RegistryError) || !REFUSALS.has(cause.code)) throw cause;
  throw new FetchRefusedError(cause.message, { cause });
}

class Finder {
  readonly #client: RegistryClient;
  readonly #baseUrl: URL;
  readonly #repository: string;
  readonly #options: RegistryImageOptions;

  constructor(client: RegistryClient, baseUrl: URL, repository: string, options: RegistryImageOptions) {
    this.#client = client;
    this.#baseUrl = baseUrl;
    this.#repository = repository;
    this.#options = options;
  }

  async find(reference: string): Promise<Found> {
    const named = await this.#image(reference);
    if (isConverted(named.manifest)) return named;
    const converted = await this.#image(await this.#convertedForm(named.digest));
    if (!isConverted(converted.manifest) || converted.manifest.subject?.digest !== named.digest) {
      throw new ClientError(
        'ERR_IMAGE_INVALID',
        `${this.#client.host} offers ${converted.digest} as the converted form of ${named.digest}, which it is not`,
      );
    }
    return converted;
  }

  async #image(reference: string): Promise<Found> {
    const { signal } = this.#options;
    const { digest, bytes, mediaType } = await this.#client.manifest(this.#repository, reference, { signal });
    const manifest = parseManifest(bytes, mediaType);
    if (manifest.kind === 'index') return this.#image(selectPlatform(manifest).digest);
    if (manifest.kind === 'image') return { digest, manifest };
    throw new ClientError('ERR_IMAGE_UNSUPPORTED', `${this.#options.reference} is an artifact, not an image`);
  }

  async #convertedForm(original: Digest): Promise<Digest> {
    const present = await this.#referrer(original);
    if (present !== null) return present;
    const converted = await this.#conversion(original);
    // A conversion is of content; what this repository shows of it, the referrers API says.
    return (await this.#referrer(original)) ?? converted;
  }

  async #referrer(original: Digest): Promise<Digest | null> {
    const referrers = await this.#client.referrers(this.#repository, original, {
      artifactType: OVERLAYBD_ARTIFACT_TYPE,
      ...(this.#options.signal === undefined ? {} : { signal: this.#options.signal }),
    });
    return referrers[0]?.digest ?? null;
  }

  #conversion(original: Digest): Promise<Digest> {
    const { waitMs, onProgress, signal } = this.#options;
    return waitForConversion({
      baseUrl: this.#baseUrl,
      original,
      waitMs,
      ...(onProgress === undefined ? {} : { onProgress }),
      ...(signal === undefined ? {} : { signal }),
    });
  }
}

/** The chunk tables that the proxy makes for layers which came without: whoever reads them trusts it. */
class MadeTables {
  readonly #client: RegistryClient;
  readonly #repository: string;
  readonly #options: RegistryImageOptions;
  /** By their own digests. */
  readonly #made = new Map<Digest, Buffer>();

  constructor(client: RegistryClient, repository: string, options: RegistryImageOptions) {
    this.#client = client;
    this.#repository = repository;
    this.#options = options;
  }

  /** Waits while the proxy gets the blob. @throws ClientError ERR_IMAGE_UNSUPPORTED, ERR_CONVERSION_TIMEOUT; RegistryError */
  async make(layer: Omit<ImageLayer, 'chunkTableDigest'>, where: string): Promise<Digest> {
    const { waitMs, signal } = this.#options;
    const timeout = AbortSignal.timeout(waitMs + TABLE_TIMEOUT_MS);
    const ends = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
    const blob = { repository: this.#repository, digest: layer.digest };
    try {
      const bytes = await askForChunkTable((attempt) => attempt(this.#client), blob, ends);
      const digest = digestOf(bytes);
      this.#made.set(digest, bytes);
      return digest;
    } catch (error) {
      signal?.throwIfAborted();
      if (timeout.aborted) {
        throw new ClientError(
          'ERR_CONVERSION_TIMEOUT',
          `${this.#client.host} does not have all of ${where} after ${Math.round(waitMs / 1000)} s; it goes on: try again later, or wait longer`,
        );
      }
      if (error instanceof RegistryError && error.code === 'ERR_REGISTRY_NOT_FOUND') {
        throw new ClientError(
          'ERR_IMAGE_UNSUPPORTED',
          `${where} has no chunk table: other tools made it, and ${this.#client.host} makes none, as a dadi proxy would; read the image through one (--proxy)`,
          { cause: error },
        );
      }
      throw error;
    }
  }

  get(digest: Digest): Buffer | null {
    return this.#made.get(digest) ?? null;
  }
}

class RegistryImage implements ConvertedImage {
  readonly reference: string;
  readonly manifestDigest: Digest;
  readonly layers: readonly ImageLayer[];
  readonly #client: RegistryClient;
  readonly #repository: string;
  readonly #tables: MadeTables;
  readonly #limit = pLimit(MAX_REQUESTS);

  constructor(parts: {
    readonly client: RegistryClient;
    readonly repository: string;
    readonly reference: string;
    readonly digest: Digest;
    readonly layers: readonly ImageLayer[];
    readonly tables: MadeTables;
  }) {
    this.#client = parts.client;
    this.#repository = parts.repository;
    this.reference = parts.reference;
    this.manifestDigest = parts.digest;
    this.layers = parts.layers;
    this.#tables = parts.tables;
  }

  async openLayer(layer: ImageLayer, access: LayerAccess): Promise<CachedBlob> {
    const { digest, sizeBytes, chunkTableDigest } = layer;
    const { cache, stats, readTimeoutMs, signal } = access;
    const table = cache.chunkTable(chunkTableDigest) ?? (await this.#chunkTable(layer, signal));
    if (table.blobSize !== sizeBytes) {
      throw new ClientError(
        'ERR_IMAGE_INVALID',
        `layer ${digest}: its chunk table is that of a blob of ${table.blobSize} bytes, the layer has ${sizeBytes}`,
      );
    }
    return cache.openBlob({
      digest,
      table,
      stats,
      name: this.reference,
      ...(readTimeoutMs !== undefined && { timeoutMs: readTimeoutMs }),
      fetch: (offset, length, signal, onFilled) =>
        this.#limit(() =>
          this.#client.readBlobRange(this.#repository, digest, offset, length, {
            signal,
            ...(onFilled !== undefined && { onFilled }),
            retry: { retries: 0 },
          }),
        ).catch(refusedIfAnswered),
    });
  }

  async #chunkTable({ sizeBytes, chunkTableDigest }: ImageLayer, signal?: AbortSignal): Promise<ChunkTable> {
    const limits = { maxBytes: maxChunkTableBytes(sizeBytes), signal };
    return decodeChunkTable(
      this.#tables.get(chunkTableDigest) ??
        (await this.#client.readBlob(this.#repository, chunkTableDigest, limits)),
    );
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}

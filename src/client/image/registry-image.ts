import pLimit from 'p-limit';
import type { ByteSource } from '../../format/byte-source.ts';
import { decodeChunkTable } from '../../format/chunk-table.ts';
import { OVERLAYBD_ARTIFACT_TYPE } from '../../oci/annotations.ts';
import type { Digest } from '../../oci/digest.ts';
import { type ImageManifest, parseManifest } from '../../oci/manifest.ts';
import { selectPlatform } from '../../oci/platform.ts';
import { parseReference } from '../../oci/reference.ts';
import { RegistryClient } from '../../oci/registry-client.ts';
import { registryUrl } from '../../oci/registry-url.ts';
import { cachedBlob, DEFAULT_READ_TIMEOUT_MS } from '../chunks/cached-blob.ts';
import { ClientError } from '../errors.ts';
import { maxChunkTableBytes } from '../sources/chunk-table-request.ts';
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
/**
 * A registry that is away (restarted, say) is asked again for this share of the time that a read may take: a
 * program gets over a pause, but not over an I/O error. The rest is for the last attempt.
 */
const RETRY_SHARE = 0.8;

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
    return new RegistryImage(client, repository, options.reference, digest, convertedLayers(manifest));
  } catch (error) {
    await client.close();
    throw error;
  }
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

class RegistryImage implements ConvertedImage {
  readonly reference: string;
  readonly manifestDigest: Digest;
  readonly layers: readonly ImageLayer[];
  readonly #client: RegistryClient;
  readonly #repository: string;
  readonly #limit = pLimit(MAX_REQUESTS);

  constructor(
    client: RegistryClient,
    repository: string,
    reference: string,
    manifestDigest: Digest,
    layers: readonly ImageLayer[],
  ) {
    this.#client = client;
    this.#repository = repository;
    this.reference = reference;
    this.manifestDigest = manifestDigest;
    this.layers = layers;
  }

  async openLayer(layer: ImageLayer, access: LayerAccess): Promise<ByteSource> {
    const { digest, sizeBytes, chunkTableDigest } = layer;
    const maxBytes = maxChunkTableBytes(sizeBytes);
    const bytes = await this.#client.readBlob(this.#repository, chunkTableDigest, {
      maxBytes,
      signal: access.signal,
    });
    const table = decodeChunkTable(bytes);
    if (table.blobSize !== sizeBytes) {
      throw new ClientError(
        'ERR_IMAGE_INVALID',
        `layer ${digest}: its chunk table is that of a blob of ${table.blobSize} bytes, the layer has ${sizeBytes}`,
      );
    }
    const { cache, stats, readTimeoutMs = DEFAULT_READ_TIMEOUT_MS } = access;
    const retry = { retries: Number.POSITIVE_INFINITY, maxMs: RETRY_SHARE * readTimeoutMs };
    return cachedBlob({
      digest,
      table,
      cache,
      stats,
      timeoutMs: readTimeoutMs,
      fetch: (offset, length, signal) =>
        this.#limit(() =>
          this.#client.readBlobRange(this.#repository, digest, offset, length, signal, retry),
        ),
    });
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}

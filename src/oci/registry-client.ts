import type { Credentials } from './bearer-tokens.ts';
import { type BlobRange, downloadFrom, rangeHeaders, type UnsizedDownload } from './blob-download.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf, isDigest, matchesDigest } from './digest.ts';
import { OciError, type RegistryContext, RegistryError } from './errors.ts';
import type { ExchangeObserver } from './exchange-observer.ts';
import { type Descriptor, MAX_MANIFEST_BYTES } from './manifest.ts';
import { bareMediaType, isDockerSchema1, MANIFEST_ACCEPT, OCI_INDEX } from './media-types.ts';
import { isRepository, isTag } from './reference.ts';
import {
  contentDigest,
  contentType,
  digestMismatch,
  indexEntries,
  nextPage,
  protocolError,
  type ResolvedManifest,
  readSmall,
  resolvedFrom,
  tagNames,
} from './registry-answers.ts';
import { discard, header, headerBytes, readExactly, tooBig } from './registry-http.ts';
import { type RetryPolicy, withRetries } from './registry-retry.ts';
import { RegistryConnections, type RegistryTimeouts, RegistryTransport } from './registry-transport.ts';
import { signedSchema1Payload } from './schema1.ts';

export interface RegistryClientOptions {
  /** Where the registry answers; a path in front of `/v2/` is kept. See `registryUrl` for what users write. */
  readonly baseUrl: URL;
  /** Sent when the registry asks for them, to itself or to the token service that it names. */
  readonly credentials?: Credentials | null;
  readonly userAgent?: string;
  readonly timeouts?: Partial<RegistryTimeouts>;
  readonly retry?: Partial<RetryPolicy>;
  readonly observer?: ExchangeObserver;
}

interface Waiting {
  readonly signal?: AbortSignal | undefined;
}

interface Accepting extends Waiting {
  /** Media types, in place of all that can be read here. */
  readonly accept?: readonly string[] | undefined;
}

export interface FetchedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Buffer;
}

/** The running download of a blob, or of a part of it. Nothing has been verified. */
export interface BlobDownload extends UnsizedDownload {
  /** Of the whole blob. */
  readonly sizeBytes: number;
}

/** A part of a list, and the URL of the next one. */
interface ListPage {
  readonly page: Buffer;
  readonly next: string | null;
}

const DEFAULT_USER_AGENT = 'dadi-mirror';
const DEFAULT_RETRY: RetryPolicy = { retries: 3, maxRetryAfterMs: 5_000 };
const TAGS_PER_PAGE = 1000;
const MAX_PAGES = 1000;
const MAX_LIST_BYTES = 64 * 1024 * 1024;

/**
 * The pull side of the Distribution spec v1.1. Safe for concurrent use. Every method rejects with a
 * RegistryError, or with the signal's reason; what is small is verified against its digest. Failures that
 * pass are repeated a few times.
 */
export class RegistryClient {
  /** Host and port, as error messages name it. */
  readonly host: string;
  readonly #options: RegistryClientOptions;
  readonly #connections: RegistryConnections;
  readonly #isOwner: boolean;
  readonly #transport: RegistryTransport;
  readonly #retry: RetryPolicy;

  /** @param shared connections of another client to the same registry, which closes them */
  constructor(options: RegistryClientOptions, shared: RegistryConnections | null = null) {
    const { baseUrl, credentials = null, userAgent = DEFAULT_USER_AGENT, timeouts = {} } = options;
    this.host = baseUrl.host;
    this.#options = options;
    this.#isOwner = shared === null;
    this.#connections =
      shared ?? new RegistryConnections(baseUrl, userAgent, timeouts, options.observer ?? null);
    this.#transport = new RegistryTransport(this.#connections, credentials);
    this.#retry = { ...DEFAULT_RETRY, ...options.retry };
  }

  /** What a tag or digest names, without its bytes where the registry can tell. */
  async resolve(repository: string, reference: string, options: Accepting = {}): Promise<ResolvedManifest> {
    const { signal } = options;
    const { context, path } = this.#manifest(repository, reference);
    const headers = acceptHeader(options);
    const resolved = await withRetries(
      async () => {
        const request = { method: 'HEAD', path, repository, headers, signal } as const;
        const response = await this.#transport.send(request, context).catch(nullOnStatus(405));
        await response?.body.dump();
        return response === null ? null : resolvedFrom(response, reference, context);
      },
      this.#retry,
      signal,
    );
    if (resolved !== null) return resolved;
    const { bytes, ...manifest } = await this.manifest(repository, reference, options);
    return { ...manifest, size: bytes.length };
  }

  /**
   * A manifest's exact bytes, verified: against the digest asked for; by tag against the one that the
   * registry names, if it does.
   */
  async manifest(repository: string, reference: string, options: Accepting = {}): Promise<FetchedManifest> {
    const { signal } = options;
    const { context, path } = this.#manifest(repository, reference);
    const headers = acceptHeader(options);
    return withRetries(
      async () => {
        const request = { method: 'GET', path, repository, headers, signal } as const;
        const response = await this.#transport.send(request, context);
        const bytes = await readSmall(response, MAX_MANIFEST_BYTES, context);
        const expected = isDigest(reference) ? reference : contentDigest(response);
        const mediaType = contentType(response);
        const signed = isDockerSchema1(bareMediaType(mediaType))
          ? (signedSchema1Payload(bytes) ?? bytes)
          : bytes;
        if (expected !== null && !matchesDigest(signed, expected)) throw digestMismatch(context, expected);
        return { digest: expected ?? digestOf(signed), mediaType, bytes };
      },
      this.#retry,
      signal,
    );
  }

  /** A blob's size. */
  async statBlob(
    repository: string,
    digest: Digest,
    { signal }: Waiting = {},
  ): Promise<{ readonly sizeBytes: number }> {
    const { context, path } = this.#blob(repository, digest);
    return withRetries(
      async () => ({ sizeBytes: await this.#blobSize(repository, path, context, signal) }),
      this.#retry,
      signal,
    );
  }

  /**
   * Starts to download a blob from `offset` on, at most `length` bytes. The caller verifies it, and resumes it
   * when `body` fails. A range outside the blob is ERR_REGISTRY_STATUS with status 416.
   */
  async blob(repository: string, digest: Digest, options: Waiting & BlobRange = {}): Promise<BlobDownload> {
    const { context, path } = this.#blob(repository, digest);
    return withRetries(
      () => this.#startBlob(repository, path, options, context),
      this.#retry,
      options.signal,
    );
  }

  /** A small blob (a configuration, a chunk table) as a whole, verified. */
  async readBlob(
    repository: string,
    digest: Digest,
    { maxBytes, signal }: Waiting & { readonly maxBytes: number },
  ): Promise<Buffer> {
    const { context, path } = this.#blob(repository, digest);
    return withRetries(
      async () => {
        const request = { method: 'GET', path, repository, headers: {}, signal } as const;
        const response = await this.#transport.send(request, context);
        const bytes = await readSmall(response, maxBytes, context);
        if (!matchesDigest(bytes, digest)) throw digestMismatch(context, digest);
        return bytes;
      },
      this.#retry,
      signal,
    );
  }

  /**
   * Exactly `length` bytes of a blob, which the caller verifies. A blob that ends before them, and a registry
   * that does not know ranges, are ERR_REGISTRY_PROTOCOL.
   * @param retry what differs from the client's own policy
   */
  async readBlobRange(
    repository: string,
    digest: Digest,
    offset: number,
    length: number,
    signal?: AbortSignal,
    retry: Partial<RetryPolicy> = {},
  ): Promise<Buffer> {
    const { context, path } = this.#blob(repository, digest);
    return withRetries(
      async () => {
        const download = await this.#startBlob(repository, path, { offset, length, signal }, context);
        const { body, offsetBytes, lengthBytes } = download;
        if (offsetBytes === offset && lengthBytes === length) return readExactly(body, length, context);
        discard(body);
        if (download.status === 206) throw protocolError(context, `the blob ends before ${offset + length}`);
        throw protocolError(
          context,
          'the registry does not answer ranges: its blobs cannot be read in parts',
        );
      },
      { ...this.#retry, ...retry },
      signal,
    );
  }

  /**
   * The manifests whose `subject` is a digest, of one artifact type or of any. Of a registry without the
   * referrers API, those that its fallback tag lists (Distribution spec, "Referrers Tag Schema").
   */
  async referrers(
    repository: string,
    digest: Digest,
    { artifactType, signal }: Waiting & { readonly artifactType?: string } = {},
  ): Promise<Descriptor[]> {
    const query = artifactType === undefined ? '' : `?artifactType=${encodeURIComponent(artifactType)}`;
    const path = `v2/${repository}/referrers/${digest}${query}`;
    const context = this.#context(repository, digest);
    const pages = await this.#pages(repository, path, OCI_INDEX, context, signal).catch(nullOnStatus(404));
    const found =
      pages === null
        ? await this.#referrersByTag(repository, digest, signal)
        : pages.flatMap((bytes) => indexEntries(bytes, context));
    return found.filter((one) => artifactType === undefined || one.artifactType === artifactType);
  }

  /** A repository's tags, in the registry's order. */
  async tags(repository: string, { signal }: Waiting = {}): Promise<string[]> {
    const context = this.#context(repository, null);
    const path = `v2/${repository}/tags/list?n=${TAGS_PER_PAGE}`;
    const pages = await this.#pages(repository, path, 'application/json', context, signal);
    return pages.flatMap((bytes) => tagNames(bytes, context));
  }

  /**
   * One page of a repository's tags, at most `n` of those behind `last`, if the registry heeds either. `nextLast` is
   * what its link to the next page puts for `last`: null if there is no next page, '' if the link says it otherwise.
   */
  async tagsPage(
    repository: string,
    { n, last, signal }: Waiting & { readonly n: number; readonly last: string | null },
  ): Promise<{ readonly tags: readonly string[]; readonly nextLast: string | null }> {
    const context = this.#context(repository, null);
    const query = new URLSearchParams({ n: String(n), ...(last === null ? {} : { last }) });
    const path = `v2/${repository}/tags/list?${query}`;
    const { page, next } = await this.#page(repository, path, 'application/json', context, signal);
    const nextLast = next === null ? null : (new URL(next).searchParams.get('last') ?? '');
    return { tags: tagNames(page, context), nextLast };
  }

  /** The same registry over the same connections, on behalf of somebody else; it ends with this client. */
  withCredentials(credentials: Credentials | null): RegistryClient {
    return new RegistryClient({ ...this.#options, credentials }, this.#connections);
  }

  /** Ends running downloads too. */
  async close(): Promise<void> {
    if (this.#isOwner) await this.#connections.close();
  }

  async #startBlob(
    repository: string,
    path: string,
    { signal, ...range }: Waiting & BlobRange,
    context: RegistryContext,
  ): Promise<BlobDownload> {
    const headers = rangeHeaders(range);
    const response = await this.#transport.send(
      { method: 'GET', path, repository, headers, signal },
      context,
    );
    const { sizeBytes, ...download } = downloadFrom(response, range, context);
    if (sizeBytes !== null) return { ...download, sizeBytes };
    try {
      return { ...download, sizeBytes: await this.#blobSize(repository, path, context, signal) };
    } catch (error) {
      discard(download.body);
      throw error;
    }
  }

  async #blobSize(
    repository: string,
    path: string,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const request = { method: 'HEAD', path, repository, headers: {}, signal } as const;
    const response = await this.#transport.send(request, context);
    await response.body.dump();
    const sizeBytes = headerBytes(response, 'content-length');
    if (sizeBytes === null) throw protocolError(context, 'the registry does not say how large the blob is');
    return sizeBytes;
  }

  /** The bodies of a list that the registry may answer in parts, each with a link to the next. */
  async #pages(
    repository: string,
    firstPath: string,
    accept: string,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<Buffer[]> {
    const pages: Buffer[] = [];
    let totalBytes = 0;
    for (let path: string | null = firstPath; path !== null; ) {
      if (pages.length === MAX_PAGES)
        throw protocolError(context, `its list has more than ${MAX_PAGES} pages`);
      const { page, next }: ListPage = await this.#page(repository, path, accept, context, signal);
      totalBytes += page.length;
      if (totalBytes > MAX_LIST_BYTES) throw tooBig(context, `more than ${MAX_LIST_BYTES}`, MAX_LIST_BYTES);
      pages.push(page);
      path = next;
    }
    return pages;
  }

  #page(
    repository: string,
    path: string,
    accept: string,
    context: RegistryContext,
    signal: AbortSignal | undefined,
  ): Promise<ListPage> {
    return withRetries(
      async () => {
        const request = { method: 'GET', path, repository, headers: { accept }, signal } as const;
        const response = await this.#transport.send(request, context);
        const page = await readSmall(response, MAX_MANIFEST_BYTES, context);
        const url = new URL(path, this.#connections.baseUrl.href);
        return { page, next: nextPage(header(response, 'link'), url) };
      },
      this.#retry,
      signal,
    );
  }

  async #referrersByTag(
    repository: string,
    digest: Digest,
    signal: AbortSignal | undefined,
  ): Promise<readonly Descriptor[]> {
    const tag = `${digestAlgorithm(digest)}-${digestHex(digest).slice(0, 64)}`;
    const index = await this.manifest(repository, tag, { accept: [OCI_INDEX], signal }).catch(
      nullOnStatus(404),
    );
    return index === null ? [] : indexEntries(index.bytes, this.#context(repository, tag));
  }

  #manifest(repository: string, reference: string): { context: RegistryContext; path: string } {
    if (!isTag(reference) && !isDigest(reference)) {
      throw new OciError(
        'ERR_REFERENCE_INVALID',
        `${JSON.stringify(reference)} is neither a tag nor a digest`,
      );
    }
    const context = this.#context(repository, reference);
    return { context, path: `v2/${repository}/manifests/${reference}` };
  }

  #blob(repository: string, digest: Digest): { context: RegistryContext; path: string } {
    return { context: this.#context(repository, digest), path: `v2/${repository}/blobs/${digest}` };
  }

  #context(repository: string, reference: string | null): RegistryContext {
    if (!isRepository(repository)) {
      throw new OciError('ERR_REFERENCE_INVALID', `${JSON.stringify(repository)} is not a repository`);
    }
    return { host: this.host, repository, reference };
  }
}

function acceptHeader({ accept = MANIFEST_ACCEPT }: Accepting): Record<string, string> {
  return { accept: accept.join(', ') };
}

/** For `catch`: null in place of an answer with this status. */
function nullOnStatus(status: number): (error: unknown) => null {
  return (error) => {
    if (error instanceof RegistryError && error.status === status) return null;
    throw error;
  };
}

import type { BlobRange } from './blob-download.ts';
import {
  type Credentials,
  type CredentialsProvider,
  fixedCredentials,
  fixedSecret,
  secretOfAuthorization,
} from './credentials.ts';
import { type Digest, isDigest, matchesDigest } from './digest.ts';
import { OciError } from './errors.ts';
import type { ExchangeObserver } from './exchange-observer.ts';
import type { HttpProxies } from './http-proxies.ts';
import type { Descriptor } from './manifest.ts';
import { OCI_INDEX } from './media-types.ts';
import type { RegistryQuota } from './rate-limits.ts';
import { isRepository, isTag } from './reference.ts';
import {
  digestMismatch,
  indexEntries,
  protocolError,
  type ResolvedManifest,
  readSmall,
  resolvedFrom,
  tagNames,
} from './registry-answers.ts';
import { RegistryConnections, type RegistryTimeouts } from './registry-connections.ts';
import { discard, type OnFilled, readExactly } from './registry-http.ts';
import {
  type Accepting,
  acceptHeader,
  type BlobDownload,
  blobPath,
  blobSize,
  type FetchedManifest,
  fetchManifest,
  manifestPath,
  nullOnStatus,
  readPage,
  readPages,
  referrersByTag,
  send,
  startBlob,
  type Waiting,
} from './registry-requests.ts';
import type { RetryPolicy } from './registry-retry.ts';
import { Endpoint, type EndpointState, RegistryRoute } from './registry-route.ts';
import type { RegistryTls } from './registry-tls.ts';
import { RegistryTransport } from './registry-transport.ts';
import type { Reach } from './registry-url.ts';

/** What a reader of a range may want. */
export interface RangeReading extends Waiting {
  readonly onFilled?: OnFilled;
  /** What differs from the client's own policy. */
  readonly retry?: Partial<RetryPolicy>;
}

/** How one address of a registry, or of a mirror of it, is reached. */
export interface RegistryAccess {
  /** Where it answers; a path in front of `/v2/` is kept. See `registryUrl` for what users write. */
  readonly baseUrl: URL;
  /** Sent when it asks for them, to itself or to the token service that it names. */
  readonly credentials?: Credentials | CredentialsProvider | null;
  /** Null for what Node.js trusts by itself. */
  readonly tls?: RegistryTls | null;
  /** Which registry is meant, told to a mirror of several (Distribution spec, "Registry Proxying"). */
  readonly namespace?: string;
}

export interface RegistryClientOptions extends RegistryAccess {
  /** Asked before the registry, in this order. */
  readonly mirrors?: readonly RegistryAccess[];
  /** How long a mirror that failed is passed over. */
  readonly mirrorRestMs?: number;
  readonly userAgent?: string;
  readonly timeouts?: Partial<RegistryTimeouts>;
  readonly retry?: Partial<RetryPolicy>;
  readonly proxies?: HttpProxies | null;
  readonly observer?: ExchangeObserver;
  /** At once to one host, for blobs; as many again for all else. */
  readonly maxConnections?: number;
  /** How far inside the registry may stand; anywhere if left out. */
  readonly reach?: Reach;
}

const DEFAULT_USER_AGENT = 'dadi-mirror';
/** A mirror is there to be quick; and the registry is to have its time too before clients give up (after 30 s). */
const mirrorTimeouts = ({ connectMs, headersMs }: Partial<RegistryTimeouts> = {}) => ({
  connectMs: Math.min(connectMs ?? Number.POSITIVE_INFINITY, 3_000),
  headersMs: Math.min(headersMs ?? Number.POSITIVE_INFINITY, 8_000),
});
const DEFAULT_RETRY: RetryPolicy = { retries: 3, maxRetryAfterMs: 5_000 };
const TAGS_PER_PAGE = 1000;

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
  /** Of its own, to be closed with it. */
  readonly #owned: readonly RegistryConnections[];
  readonly #registry: Endpoint;
  readonly #route: RegistryRoute;

  /** @param shared connections of another client to the same registry, which closes them */
  constructor(options: RegistryClientOptions, shared: RegistryConnections | null = null) {
    const { baseUrl, credentials = null, namespace = null, mirrors = [], mirrorRestMs } = options;
    this.host = baseUrl.host;
    this.#options = options;
    this.#connections = shared ?? connect(options, options);
    this.#registry = new Endpoint(transport(this.#connections, credentials), { isMirror: false, namespace });
    const endpoints = mirrors.map((mirror) => {
      const { credentials: theirs = null } = mirror;
      const timeouts = { ...options.timeouts, ...mirrorTimeouts(options.timeouts) };
      const rest = mirrorRestMs === undefined ? {} : { restMs: mirrorRestMs };
      const to = transport(connect({ ...options, timeouts, reach: 'any' }, mirror), theirs);
      return new Endpoint(to, { isMirror: true, namespace: mirror.namespace ?? null, ...rest });
    });
    this.#owned = [
      ...(shared === null ? [this.#connections] : []),
      ...endpoints.map((mirror) => mirror.transport.connections),
    ];
    this.#route = new RegistryRoute(endpoints, this.#registry, { ...DEFAULT_RETRY, ...options.retry });
  }

  /** What a tag or digest names, without its bytes where the registry can tell. */
  async resolve(repository: string, reference: string, options: Accepting = {}): Promise<ResolvedManifest> {
    const { signal } = options;
    checkReference(repository, reference);
    const path = manifestPath(repository, reference);
    const request = { method: 'HEAD', kind: 'manifest', path, repository, signal } as const;
    return this.#route.ask(async (endpoint) => {
      const context = { host: endpoint.host, repository, reference };
      const response = await send(endpoint, { ...request, headers: acceptHeader(options) }, context).catch(
        nullOnStatus(405),
      );
      await response?.body.dump();
      const resolved = response === null ? null : resolvedFrom(response, reference, context);
      if (resolved !== null) return resolved;
      const { bytes, ...manifest } = await fetchManifest(endpoint, repository, reference, options);
      return { ...manifest, size: bytes.length };
    }, signal);
  }

  /**
   * A manifest's exact bytes, verified: against the digest asked for; by tag against the one that the
   * registry names, if it does.
   */
  async manifest(repository: string, reference: string, options: Accepting = {}): Promise<FetchedManifest> {
    checkReference(repository, reference);
    return this.#route.ask(
      (endpoint) => fetchManifest(endpoint, repository, reference, options),
      options.signal,
    );
  }

  /** A blob's size. */
  async statBlob(
    repository: string,
    digest: Digest,
    { signal }: Waiting = {},
  ): Promise<{ readonly sizeBytes: number }> {
    checkRepository(repository);
    return this.#route.ask(
      async (endpoint) => ({ sizeBytes: await blobSize(endpoint, repository, digest, signal) }),
      signal,
    );
  }

  /**
   * Starts to download a blob from `offset` on, at most `length` bytes. The caller verifies it, and resumes it
   * when `body` fails. A range outside the blob is ERR_REGISTRY_STATUS with status 416.
   */
  async blob(repository: string, digest: Digest, options: Waiting & BlobRange = {}): Promise<BlobDownload> {
    checkRepository(repository);
    return this.#route.ask((endpoint) => startBlob(endpoint, repository, digest, options), options.signal);
  }

  /** A small blob (a configuration, a chunk table) as a whole, verified. */
  async readBlob(
    repository: string,
    digest: Digest,
    { maxBytes, signal }: Waiting & { readonly maxBytes: number },
  ): Promise<Buffer> {
    checkRepository(repository);
    const path = blobPath(repository, digest);
    const request = { method: 'GET', kind: 'blob', path, repository, headers: {}, signal } as const;
    return this.#route.ask(async (endpoint) => {
      const context = { host: endpoint.host, repository, reference: digest };
      const bytes = await readSmall(await send(endpoint, request, context), maxBytes, context);
      if (!matchesDigest(bytes, digest)) throw digestMismatch(context, digest);
      return bytes;
    }, signal);
  }

  /**
   * Exactly `length` bytes of a blob, which the caller verifies. A blob that ends before them, and a registry
   * that does not know ranges, are ERR_REGISTRY_PROTOCOL.
   */
  async readBlobRange(
    repository: string,
    digest: Digest,
    offset: number,
    length: number,
    { signal, onFilled, retry = {} }: RangeReading = {},
  ): Promise<Buffer> {
    checkRepository(repository);
    return this.#route.ask(
      async (endpoint) => {
        const context = { host: endpoint.host, repository, reference: digest };
        const download = await startBlob(endpoint, repository, digest, { offset, length, signal });
        const { body, offsetBytes, lengthBytes } = download;
        if (offsetBytes === offset && lengthBytes === length)
          return readExactly(body, length, context, onFilled);
        discard(body);
        if (download.status === 206) throw protocolError(context, `the blob ends before ${offset + length}`);
        throw protocolError(
          context,
          'the registry does not answer ranges: its blobs cannot be read in parts',
        );
      },
      signal,
      retry,
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
    checkRepository(repository);
    const query = artifactType === undefined ? '' : `?artifactType=${encodeURIComponent(artifactType)}`;
    const path = `v2/${repository}/referrers/${digest}${query}`;
    const found = await this.#route.ask(async (endpoint) => {
      const context = { host: endpoint.host, repository, reference: digest };
      const pages = await readPages(endpoint, path, OCI_INDEX, context, signal).catch(nullOnStatus(404));
      return pages === null
        ? referrersByTag(endpoint, repository, digest, signal)
        : pages.flatMap((bytes) => indexEntries(bytes, context));
    }, signal);
    return found.filter((one) => artifactType === undefined || one.artifactType === artifactType);
  }

  /** A repository's tags, in the registry's order. */
  async tags(repository: string, { signal }: Waiting = {}): Promise<string[]> {
    checkRepository(repository);
    const path = `v2/${repository}/tags/list?n=${TAGS_PER_PAGE}`;
    return this.#route.ask(async (endpoint) => {
      const context = { host: endpoint.host, repository, reference: null };
      const pages = await readPages(endpoint, path, 'application/json', context, signal);
      return pages.flatMap((bytes) => tagNames(bytes, context));
    }, signal);
  }

  /**
   * One page of a repository's tags, at most `n` of those behind `last`, if the registry heeds either. `nextLast` is
   * what its link to the next page puts for `last`: null if there is no next page, '' if the link says it otherwise.
   */
  async tagsPage(
    repository: string,
    { n, last, signal }: Waiting & { readonly n: number; readonly last: string | null },
  ): Promise<{ readonly tags: readonly string[]; readonly nextLast: string | null }> {
    checkRepository(repository);
    const query = new URLSearchParams({ n: String(n), ...(last === null ? {} : { last }) });
    const path = `v2/${repository}/tags/list?${query}`;
    return this.#route.ask(async (endpoint) => {
      const context = { host: endpoint.host, repository, reference: null };
      const { page, next } = await readPage(endpoint, path, 'application/json', context, signal);
      const nextLast = next === null ? null : (new URL(next).searchParams.get('last') ?? '');
      return { tags: tagNames(page, context), nextLast };
    }, signal);
  }

  /**
   * What a registry answers beside the Distribution API to who may pull from a repository: anything with a status
   * of 200 to 299.
   * @param path below its address, with its query
   */
  async extension(
    path: string,
    repository: string,
    { maxBytes, signal }: Waiting & { readonly maxBytes: number },
  ): Promise<{ readonly status: number; readonly bytes: Buffer }> {
    checkRepository(repository);
    const request = { method: 'GET', kind: 'list', path, repository, headers: {}, signal } as const;
    return this.#route.ask(async (endpoint) => {
      const context = { host: endpoint.host, repository, reference: null };
      const response = await send(endpoint, request, context);
      return { status: response.statusCode, bytes: await readSmall(response, maxBytes, context) };
    }, signal);
  }

  /** How much the registry itself lets us pull, by what it said last; null if it does not say. */
  quota(): RegistryQuota | null {
    return this.#registry.state.quota;
  }

  /** The mirrors in their order, then the registry. */
  endpoints(): EndpointState[] {
    return this.#route.states;
  }

  /**
   * The registry itself, without its mirrors, over the same connections on behalf of somebody else; it ends with
   * this client.
   * @param more.namespace another registry that the same address serves
   */
  withCredentials(
    credentials: Credentials | CredentialsProvider | null,
    more: { readonly namespace?: string } = {},
  ): RegistryClient {
    return new RegistryClient({ ...this.#options, ...more, credentials, mirrors: [] }, this.#connections);
  }

  /**
   * {@link withCredentials} by the `Authorization` that a caller sent: Basic as user and password, anything else
   * (a token) as it is. Where the registry refuses it, the error's `challenge` is for the caller to answer.
   */
  withAuthorization(value: string): RegistryClient {
    return this.withCredentials(fixedSecret(secretOfAuthorization(value)));
  }

  /** Ends running downloads too. */
  async close(): Promise<void> {
    await Promise.all(this.#owned.map((connections) => connections.close()));
  }
}

function connect(options: RegistryClientOptions, access: RegistryAccess): RegistryConnections {
  const { userAgent = DEFAULT_USER_AGENT, ...common } = options;
  const { baseUrl, tls } = access;
  return new RegistryConnections({ ...common, baseUrl, userAgent, tls });
}

function transport(
  connections: RegistryConnections,
  credentials: Credentials | CredentialsProvider | null,
): RegistryTransport {
  const isProvider = credentials !== null && 'current' in credentials;
  return new RegistryTransport(connections, isProvider ? credentials : fixedCredentials(credentials));
}

function checkRepository(repository: string): void {
  if (isRepository(repository)) return;
  throw new OciError('ERR_REFERENCE_INVALID', `${JSON.stringify(repository)} is not a repository`);
}

function checkReference(repository: string, reference: string): void {
  checkRepository(repository);
  if (isTag(reference) || isDigest(reference)) return;
  throw new OciError('ERR_REFERENCE_INVALID', `${JSON.stringify(reference)} is neither a tag nor a digest`);
}

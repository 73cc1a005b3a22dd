import type { Logger } from 'pino';
import type { RegistryTls } from '../../oci/registry-tls.ts';
import { hostInUrl, isLoopback } from '../../oci/registry-url.ts';
import { type Answer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { type EndedRequest, HttpSide, READING, type Route } from '../../oci/serving/http-side.ts';
import { type Address, Listener } from '../../oci/serving/listener.ts';
import { refuseOtherHosts } from '../../oci/serving/own-hosts.ts';
import { parseDistributionPath } from '../../oci/serving/paths.ts';
import type { ChunkCache } from '../chunks/chunk-cache.ts';
import type { ReadStats } from '../chunks/read-stats.ts';
import { makePrivateDirectory } from '../mount/private-directory.ts';
import { ArrivingBlobs } from './arriving-blobs.ts';
import { answerBlob } from './blob-route.ts';
import { Callers } from './callers.ts';
import { TOKEN_PATH } from './challenge.ts';
import { type BlobMesh, type BlobParts, ChunkedBlobs } from './chunked-blobs.ts';
import { DirectHosts } from './direct-hosts.ts';
import { KnownContent } from './known-content.ts';
import { answerManifest } from './manifest-route.ts';
import { askFor, type CredentialsKeeper, handBack } from './mirror-context.ts';
import { mirrorErrorAnswer } from './mirror-errors.ts';
import { targetOf } from './mirror-target.ts';
import { answerP2p, P2P_PATH, type P2pParts } from './p2p-route.ts';
import { ProxiesAwayError, ProxyRelay } from './proxy-relay.ts';
import { ReadAheadMemory } from './read-ahead.ts';
import { ReadRights } from './read-rights.ts';
import { answerToken } from './token-route.ts';

export interface MirrorOptions {
  /** Port 0 for any. */
  readonly listen: Address;
  /** The preferred one first. */
  readonly proxies: readonly URL[];
  /** Null for what Node.js trusts by itself. */
  readonly tls?: RegistryTls | null;
  /** Gets the parts of blobs that the cache lacks; keeps the credentials of pulls. `Proxies` is one. */
  readonly sources: BlobParts & { readonly credentials: CredentialsKeeper };
  readonly cache: ChunkCache;
  /** Other hosts, asked before the proxies; null: there are none. */
  readonly mesh?: BlobMesh | null;
  /** For what is known of content, and for blobs on their way: of this process alone. */
  readonly stateDirectory: string;
  /** HOST[:PORT] of registries and their storage that may be asked themselves for what stock overlaybd reads. */
  readonly directHosts?: readonly string[];
  /** Of requests that name no registry: Docker's. */
  readonly defaultRegistry?: string;
  /** How long a read waits for a proxy in the middle of a blob, before the answer is cut off. */
  readonly readTimeoutMs?: number;
  readonly logger: Logger;
  /** For metrics: told of each request when it is over. */
  readonly onRequestEnd?: (request: EndedRequest) => void;
}

const DEFAULT_READ_TIMEOUT_MS = 5 * 60_000;
const DRAIN_MS = 2_000;
/** Each connection holds half a megabyte while its client takes nothing, and reading ahead for all together this. */
const READ_AHEAD_BYTES = 64 * 1024 * 1024;
const LIMITS = { max: 512, requestTimeoutMs: 20_000, stalledClientMs: 5 * 60_000, tls: null };

/**
 * The pull side of the Distribution API for the container engines of this host: what dadi proxies have, with blobs
 * through the host's chunk cache.
 */
export class MirrorServer {
  /** Where it answers. */
  readonly url: URL;
  readonly #listener: Listener;
  readonly #http: HttpSide;
  readonly #parts: P2pParts;

  private constructor(listener: Listener, http: HttpSide, parts: P2pParts) {
    const { host, port } = listener.address;
    this.url = new URL(`http://${hostInUrl(host)}:${port}`);
    this.#listener = listener;
    this.#http = http;
    this.#parts = parts;
  }

  /** @throws ClientError ERR_DIRECTORY_UNSAFE; the system's error if nobody can listen there */
  static async start(options: MirrorOptions): Promise<MirrorServer> {
    const { listen, logger, stateDirectory } = options;
    makePrivateDirectory(stateDirectory);
    const parts = openParts(options);
    const http = new HttpSide(routes(parts), {
      log: logger,
      onEnd: options.onRequestEnd ?? (() => {}),
      errorAnswer: mirrorErrorAnswer,
      refuse: refuseOtherHosts([listen.host], 'ask by its address'),
    });
    try {
      const server = new MirrorServer(await Listener.open(http, listen, LIMITS), http, parts);
      if (!isLoopback(server.url)) {
        logger.warn(
          { url: server.url.href },
          'other hosts can reach the mirror: what they send is not encrypted',
        );
      }
      return server;
    } catch (error) {
      await closeParts(parts);
      throw error;
    }
  }

  /** What blobs cost that were read through the chunk cache. */
  get stats(): Readonly<ReadStats> {
    return this.#parts.chunked.stats;
  }

  /** Takes no new connections; running answers have two seconds to end. */
  async close(): Promise<void> {
    await this.#listener.close(DRAIN_MS);
    await this.#http.idle();
    await closeParts(this.#parts);
  }
}

function openParts(options: MirrorOptions): P2pParts {
  const { proxies, tls = null, sources, cache, mesh = null, stateDirectory, logger } = options;
  const {
    readTimeoutMs = DEFAULT_READ_TIMEOUT_MS,
    directHosts = [],
    defaultRegistry = 'docker.io',
  } = options;
  const known = KnownContent.open(stateDirectory, (err) =>
    logger.warn({ err, directory: stateDirectory }, 'what the mirror knows of content is not kept: going on'),
  );
  const relay = new ProxyRelay({ urls: proxies, tls });
  const rights = new ReadRights(known);
  const chunked = new ChunkedBlobs(cache, sources, mesh, readTimeoutMs);
  const context = { relay, rights, known, credentials: sources.credentials, logger };
  const arriving = new ArrivingBlobs({
    ...context,
    chunked,
    directory: stateDirectory,
    patienceMs: readTimeoutMs,
  });
  return {
    ...{ ...context, chunked, arriving, defaultRegistry },
    readAhead: new ReadAheadMemory(READ_AHEAD_BYTES),
    callers: new Callers(),
    direct: new DirectHosts(directHosts),
    proxyHosts: new Set(proxies.map(({ host }) => host)),
  };
}

async function closeParts({ arriving, direct, relay, known }: P2pParts): Promise<void> {
  await direct.close();
  await arriving.close();
  await relay.close();
  known.close();
}

function routes(parts: P2pParts): readonly Route[] {
  const { callers } = parts;
  const handle = (request: ServedRequest) => answer(parts, request);
  return [
    ...['/v2', '/v2/*'].map((path) => ({ path, methods: READING, kind: 'base', handle })),
    {
      path: TOKEN_PATH,
      methods: READING,
      kind: 'token',
      handle: (request) => answerToken(parts.relay, callers, request),
    },
    {
      path: `${P2P_PATH}/*`,
      methods: ['GET'],
      kind: 'p2p',
      handle: (request) => answerP2p(parts, request),
    },
  ];
}

async function answer(parts: P2pParts, request: ServedRequest): Promise<Answer> {
  const { callers, defaultRegistry } = parts;
  const path = parseDistributionPath(request.pathname);
  const { notes, headers } = request;
  notes.kind = path.kind;
  const caller = callers.callerOf(headers);
  if (path.kind === 'base' || path.kind === 'repositories') {
    return answerUnnamed(parts.relay, path.kind, caller.authorization, request);
  }
  const target = targetOf(path.name, request.query.get('ns'), defaultRegistry);
  notes.upstream = target.registry;
  notes.repository = target.repository;
  const asked = { target, caller, request };
  switch (path.kind) {
    case 'manifest':
      notes.reference = path.reference.kind === 'tag' ? path.reference.tag : path.reference.digest;
      return answerManifest(parts, asked, path.reference);
    case 'blob':
      notes.reference = path.digest;
      return answerBlob(parts, asked, path.digest);
    case 'referrers':
      return answerList(parts, asked, `referrers/${path.digest}`);
    case 'tags':
      return answerList(parts, asked, 'tags/list');
  }
}

async function answerList(parts: P2pParts, asked: Parameters<typeof askFor>[1], path: string) {
  const { method, headers } = asked.request;
  const options = { method: method === 'HEAD' ? 'HEAD' : 'GET', lane: 'small', headers } as const;
  return handBack(await askFor(parts, asked, path, options), asked.request);
}

/** What is asked of no repository. Docker asks whether there is a registry, before it asks for what may be here. */
async function answerUnnamed(
  relay: ProxyRelay,
  kind: 'base' | 'repositories',
  authorization: string | null,
  request: ServedRequest,
): Promise<Answer> {
  try {
    const answer = await relay.ask({
      method: request.method === 'HEAD' ? 'HEAD' : 'GET',
      path: kind === 'base' ? 'v2/' : `v2/_catalog?${request.query}`,
      headers: authorization === null ? {} : { authorization },
      lane: 'small',
      repository: null,
      signal: request.signal,
    });
    return await handBack(answer, request);
  } catch (error) {
    if (kind === 'base' && error instanceof ProxiesAwayError) return jsonAnswer({});
    throw error;
  }
}

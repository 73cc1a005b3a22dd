import { createHmac, randomBytes } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { RegistryError } from '../../oci/errors.ts';
import { isRepository } from '../../oci/reference.ts';
import type { RegistryClient } from '../../oci/registry-client.ts';
import { type Answer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { RepositoryName } from '../../store/catalog.ts';
import type { Caller } from '../http/caller.ts';
import { SingleFlight } from '../http/single-flight.ts';
import type { Outages } from '../upstream/outages.ts';
import type { Target } from '../upstream/upstreams.ts';
import type { Access, Asked, Claim } from './access.ts';
import { AccessTokens, tokenChallenge } from './access-tokens.ts';

/** A refusal is asked for again this soon: rights are given while somebody waits for them. */
const REFUSAL_TTL_MS = 5_000;
const MAX_DECISIONS = 50_000;
const MAX_CLIENTS = 2_000;
/** How long work in the background may go on for one who could read a repository. */
const BACKGROUND_TTL_MS = 60 * 60_000;
const MAX_BACKGROUND = 2_000;
const HOST = /^[\w.-]+(?::\d{1,5})?$|^\[[0-9a-f:.]+\](?::\d{1,5})?$/i;

type Identified = Exclude<Caller, { kind: 'bearer' }>;

interface Parts {
  readonly decisionTtlMs: number;
  /** Shared by all replicas; null for one of this process's own. */
  readonly tokenSecret: string | null;
  /** Where clients reach the proxy; null: where their request says, by this scheme. */
  readonly publicUrl: string | null;
  readonly scheme: 'http' | 'https';
  /** The target with the proxy's own client. */
  readonly own: (where: RepositoryName) => Target;
  readonly outages: Outages;
  /** Ends all questions to upstreams. */
  readonly signal: AbortSignal;
}

/**
 * Who may read upstream may read here: the caller's own credentials are tried there, and what came of it holds for
 * a short time. The right to pull from a repository covers what that repository has (`Catalog.isLinked`), nothing
 * else. Upstream is always asked the same, whether what is wanted is kept here or not: so the answers, too, are the
 * same.
 */
export class PassthroughAccess implements Access {
  readonly isPerRepository = true;
  readonly #parts: Parts;
  readonly #tokens: AccessTokens;
  readonly #salt = randomBytes(32);
  readonly #granted: LRUCache<string, true>;
  readonly #refused = new LRUCache<string, RegistryError>({ max: MAX_DECISIONS, ttl: REFUSAL_TTL_MS });
  readonly #checks = new SingleFlight<void>();
  /** Clients remember how each repository wants to be asked. By the client of the upstream, then by identity. */
  readonly #clients = new WeakMap<RegistryClient, LRUCache<string, RegistryClient>>();
  readonly #background = new LRUCache<string, { readonly own: RegistryClient; readonly target: Target }>({
    max: MAX_BACKGROUND,
    ttl: BACKGROUND_TTL_MS,
  });

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#tokens = new AccessTokens(parts.tokenSecret);
    this.#granted = new LRUCache({ max: MAX_DECISIONS, ttl: Math.max(1, parts.decisionTtlMs) });
  }

  async admit(_request: ServedRequest): Promise<void> {}

  /** Clients look here whether to send credentials at all; what these are good for depends on the repository. */
  base(request: ServedRequest): void {
    if (request.headers.authorization === undefined) throw this.#challenge(request, null, null);
    this.#caller(request, null);
  }

  /** GET /dadi/v1/token: who the caller says it is, as a token for the requests that follow. */
  token(request: ServedRequest): Answer {
    const issued = this.#tokens.issue(request);
    if (issued === null) throw new RequestError('UNAUTHORIZED', 'send credentials as Basic, or none');
    return jsonAnswer(issued, { 'cache-control': 'no-store' });
  }

  async authorise({ name, target, claim }: Asked, request: ServedRequest): Promise<Target> {
    const caller = this.#caller(request, name);
    const { where } = target;
    const identity = this.#identity(caller);
    const client = this.#client(target.client, identity, caller);
    const theirs = { where, client };
    const key = [identity, where.upstream, where.repository].join(' ');
    if (!this.#granted.has(key)) {
      const check = this.#checks.run(`${key} ${JSON.stringify(claim)}`, () =>
        this.#check(theirs, claim, key),
      );
      await unlessAborted(check, request.signal).catch((error: unknown) => {
        throw this.#refusal(error, request, name, caller);
      });
    }
    this.#background.set(`${where.upstream} ${where.repository}`, { own: target.client, target: theirs });
    return theirs;
  }

  mayListAll(): void {
    throw new RequestError(
      'DENIED',
      "repositories are not listed here: nobody's rights upstream are for all",
    );
  }

  background(where: RepositoryName): Target {
    const own = this.#parts.own(where);
    const known = this.#background.get(`${where.upstream} ${where.repository}`);
    // One of a client that has been replaced since is closed.
    return known?.own === own.client ? known.target : own;
  }

  async #check(theirs: Target, claim: Claim, key: string): Promise<void> {
    const refused = this.#refused.get(key);
    if (refused !== undefined) throw refused;
    try {
      await this.#parts.outages.ask(theirs, () => proveRight(theirs, claim, this.#parts.signal));
    } catch (error) {
      if (isRefusal(error)) this.#refused.set(key, error);
      throw error;
    }
    if (this.#parts.decisionTtlMs > 0) this.#granted.set(key, true);
  }

  #refusal(error: unknown, request: ServedRequest, name: string, caller: Identified): unknown {
    if (!(error instanceof RegistryError)) return error;
    if (error.code === 'ERR_REGISTRY_UNAUTHORIZED') {
      if (error.status === 403) return new RequestError('DENIED', `upstream refuses: ${error.message}`);
      const why = caller.kind === 'anonymous' ? null : 'insufficient_scope';
      return this.#challenge(request, name, why, error.message);
    }
    if (error.code === 'ERR_REGISTRY_STATUS' && (error.status ?? 0) >= 500) {
      return new RequestError('UNAVAILABLE', `upstream cannot say who may read: ${error.message}`);
    }
    return error;
  }

  #caller(request: ServedRequest, name: string | null): Identified {
    const caller = this.#tokens.callerOf(request);
    if (caller === null) throw this.#challenge(request, name, 'invalid_token');
    return caller;
  }

  #challenge(
    { headers: { host = '' } }: ServedRequest,
    name: string | null,
    error: 'invalid_token' | 'insufficient_scope' | null,
    message = 'authentication required',
  ): RequestError {
    const { publicUrl, scheme } = this.#parts;
    const origin = publicUrl ?? `${scheme}://${HOST.test(host) ? host : 'localhost'}`;
    // It is quoted in a header.
    const scopeName = name !== null && isRepository(name.replace(/^[^/]*:\d+\//, '')) ? name : null;
    return new RequestError('UNAUTHORIZED', message, { headers: tokenChallenge(origin, scopeName, error) });
  }

  #identity(caller: Identified): string {
    if (caller.kind === 'anonymous') return 'anonymous';
    const { username, password } = caller.credentials;
    return createHmac('sha256', this.#salt)
      .update(JSON.stringify([username, password]))
      .digest('base64');
  }

  #client(own: RegistryClient, identity: string, caller: Identified): RegistryClient {
    let clients = this.#clients.get(own);
    if (clients === undefined) {
      clients = new LRUCache({ max: MAX_CLIENTS });
      this.#clients.set(own, clients);
    }
    let client = clients.get(identity);
    if (client === undefined) {
      client = own.withCredentials(caller.kind === 'basic' ? caller.credentials : null);
      clients.set(identity, client);
    }
    return client;
  }
}

/**
 * Asks upstream, as cheaply as can be (HEAD is free of Docker Hub's quota), whether it lets the caller read. What it
 * does not have proves nothing: converted images are ours alone. Then the question is for the repository itself.
 */
async function proveRight({ where, client }: Target, claim: Claim, signal: AbortSignal): Promise<void> {
  const { repository } = where;
  try {
    if (claim.kind === 'manifest')
      return void (await client.resolve(repository, claim.reference, { signal }));
    if (claim.kind === 'blob') return void (await client.statBlob(repository, claim.digest, { signal }));
  } catch (error) {
    if (!(error instanceof RegistryError && error.code === 'ERR_REGISTRY_NOT_FOUND')) throw error;
  }
  await client.tagsPage(repository, { n: 1, last: null, signal });
}

function isRefusal(error: unknown): error is RegistryError {
  return error instanceof RegistryError && error.code === 'ERR_REGISTRY_UNAUTHORIZED';
}

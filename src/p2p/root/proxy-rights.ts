import { createHmac, randomBytes } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { Agent, type Dispatcher, request } from 'undici';
import type { Digest } from '../../oci/digest.ts';
import { challengeOf } from '../../oci/registry-http.ts';
import { ownTlsOptions, type RegistryTls } from '../../oci/registry-tls.ts';
import type { ServedRequest } from '../../oci/serving/answer.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { MeshRepository, MeshRights } from './root-routes.ts';

/** How long the proxy's word that somebody may read a blob is taken. */
const GRANTED_TTL_MS = 60_000;
const MAX_GRANTED = 50_000;
const CONNECT_MS = 3_000;
const ANSWER_MS = 10_000;
const CONNECTIONS = 32;

/**
 * Who may read a blob through a proxy may join its tree: the proxy is asked by HEAD of the blob, with the caller's own
 * `Authorization`. What it says to a caller that it does not know is passed on.
 */
export class ProxyRights implements MeshRights {
  readonly #proxy: string;
  readonly #agent: Agent;
  readonly #salt = randomBytes(32);
  readonly #granted = new LRUCache<string, true>({ max: MAX_GRANTED, ttl: GRANTED_TTL_MS });

  /** @param tls null for what Node.js trusts by itself */
  constructor(proxy: URL, tls: RegistryTls | null) {
    this.#proxy = proxy.href.replace(/\/+$/, '');
    this.#agent = new Agent({
      connections: CONNECTIONS,
      headersTimeout: ANSWER_MS,
      bodyTimeout: ANSWER_MS,
      connect: { timeout: CONNECT_MS, ...ownTlsOptions(tls) },
    });
  }

  /** The proxy alone knows, and is asked blob by blob. */
  async admit(_request: ServedRequest): Promise<void> {}

  async refusal(blob: Digest, where: MeshRepository, caller: ServedRequest): Promise<string | null> {
    const path = blobPath(where, blob);
    const { authorization } = caller.headers;
    const key = createHmac('sha256', this.#salt)
      .update(JSON.stringify([authorization ?? null, path]))
      .digest('base64');
    if (this.#granted.has(key)) return null;
    const { status, challenge } = await this.#ask(path, authorization, caller.signal);
    switch (status) {
      case 200:
        this.#granted.set(key, true);
        return null;
      case 401:
        throw new RequestError('UNAUTHORIZED', 'the proxy wants to know who asks', {
          headers: challenge === null ? {} : { 'www-authenticate': challenge },
        });
      case 400:
      case 403:
      case 404:
        return `${where.repository} has no ${blob} that you may read`;
      default:
        throw new RequestError('UNAVAILABLE', `the proxy cannot say who may read: it answered ${status}`);
    }
  }

  /** Ends all connections. */
  close(): Promise<void> {
    return this.#agent.destroy();
  }

  async #ask(path: string, authorization: string | undefined, signal: AbortSignal) {
    const headers = authorization === undefined ? {} : { authorization };
    let answer: Dispatcher.ResponseData;
    try {
      const options = { method: 'HEAD', headers, signal, dispatcher: this.#agent } as const;
      answer = await request(`${this.#proxy}${path}`, options);
    } catch (error) {
      signal.throwIfAborted();
      const reason = error instanceof Error ? error.message : String(error);
      throw new RequestError('UNAVAILABLE', `the proxy cannot be asked who may read: ${reason}`);
    }
    await answer.body.dump();
    return { status: answer.statusCode, challenge: challengeOf(answer) };
  }
}

/** @throws RequestError NAME_INVALID for what is no name of a repository, perhaps with an upstream's before it */
function blobPath({ repository, ns }: MeshRepository, blob: Digest): string {
  const parts = repository.split('/');
  if (parts.some((part) => !/^[\w.:-]+$/.test(part) || /^\.+$/.test(part))) {
    throw new RequestError('NAME_INVALID', 'this is no name of a repository');
  }
  const query = ns === null ? '' : `?${new URLSearchParams({ ns })}`;
  return `/v2/${parts.join('/')}/blobs/${blob}${query}`;
}

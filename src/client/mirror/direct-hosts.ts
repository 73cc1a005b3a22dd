import { RegistryConnections } from '../../oci/registry-connections.ts';
import type { Answer, ServedRequest } from '../../oci/serving/answer.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { relayedAnswer, requestHeaders } from './relayed-answer.ts';

const USER_AGENT = 'dadi-node';

/** Hosts whose blobs may be had without any proxy: no other host is ever asked. */
export class DirectHosts {
  readonly #hosts: ReadonlySet<string>;
  /** By origin. */
  readonly #connections = new Map<string, RegistryConnections>();

  /** @param hosts HOST or HOST:PORT, the port only where it is not the scheme's own */
  constructor(hosts: readonly string[]) {
    this.#hosts = new Set(hosts.map((host) => host.toLowerCase()));
  }

  allows({ host }: URL): boolean {
    return this.#hosts.has(host);
  }

  /** What the host says, as it comes. @throws RequestError DENIED; RegistryError; the client's leaving */
  async answer(url: URL, { headers, signal, notes }: ServedRequest): Promise<Answer> {
    if (!this.allows(url)) {
      throw new RequestError(
        'DENIED',
        `${url.host} is not among mirror.directHosts, and no proxy gives this`,
      );
    }
    const wanted = requestHeaders(headers, headers.authorization ?? null);
    const request = {
      url,
      signal,
      method: 'GET',
      headers: { 'user-agent': USER_AGENT, 'accept-encoding': 'identity', ...wanted },
    } as const;
    notes.source = 'upstream';
    const context = { host: url.host, repository: null, reference: null };
    return relayedAnswer(await this.#connectionsTo(url).exchange(request, 'bulk', context));
  }

  /** Ends running requests too. */
  async close(): Promise<void> {
    await Promise.all(Array.from(this.#connections.values(), (connections) => connections.close()));
  }

  #connectionsTo({ origin }: URL): RegistryConnections {
    let connections = this.#connections.get(origin);
    if (connections === undefined) {
      connections = new RegistryConnections({ baseUrl: new URL(origin), userAgent: USER_AGENT });
      this.#connections.set(origin, connections);
    }
    return connections;
  }
}

import { fixedSecret } from '../../oci/credentials.ts';
import { RegistryError } from '../../oci/errors.ts';
import { RegistryAuth } from '../../oci/registry-auth.ts';
import { RegistryConnections } from '../../oci/registry-connections.ts';
import type { RegistryTls } from '../../oci/registry-tls.ts';
import type { AuthorizeJoin } from '../../p2p/agent/mesh.ts';
import type { SourceCredentials } from './source-credentials.ts';

const USER_AGENT = 'dadi-node';

/**
 * Says in whose name a root is asked for places: as a proxy is asked for blobs, by the credentials that pulls of the
 * repository brought, or by the daemon's own.
 */
export class JoinAuthorization {
  readonly #credentials: SourceCredentials;
  readonly #tls: RegistryTls | null;
  /** By root. They hold its tokens. */
  readonly #connections = new Map<string, RegistryConnections>();

  constructor(credentials: SourceCredentials, tls: RegistryTls | null) {
    this.#credentials = credentials;
    this.#tls = tls;
  }

  readonly authorize: AuthorizeJoin = async (root, where, challenge, signal) => {
    const connections = this.#connectionsTo(root);
    const repository = `${where.registry}/${where.repository}`;
    const context = { host: root.host, repository, reference: null };
    let failure: unknown = null;
    for (const { provider } of await this.#credentials.identities(where, root.host, signal)) {
      const auth = new RegistryAuth(connections, provider ?? fixedSecret(null));
      try {
        const header =
          challenge === null
            ? await auth.authorization(repository, context, signal)
            : await auth.renew(challenge, null, repository, context, signal);
        if (header !== null) return header;
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof RegistryError)) throw error;
        failure ??= error;
      }
    }
    if (failure !== null) throw failure;
    return null;
  };

  /** Ends requests for tokens. */
  async close(): Promise<void> {
    await Promise.all(Array.from(this.#connections.values(), (connections) => connections.close()));
  }

  #connectionsTo(root: URL): RegistryConnections {
    let connections = this.#connections.get(root.href);
    if (connections === undefined) {
      connections = new RegistryConnections({ baseUrl: root, userAgent: USER_AGENT, tls: this.#tls });
      this.#connections.set(root.href, connections);
    }
    return connections;
  }
}

import type { RegistryQuota } from '../../oci/rate-limits.ts';
import { DEFAULT_REGISTRY, isRepository } from '../../oci/reference.ts';
import type { RegistryClient } from '../../oci/registry-client.ts';
import type { EndpointState } from '../../oci/registry-route.ts';
import { quote } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { RepositoryName } from '../../store/catalog.ts';

/** A registry that the proxy may contact. */
export interface Upstream {
  /** As in image names: `quay.io`. */
  readonly name: string;
  readonly client: RegistryClient;
}

/** A repository of an upstream: what a request is about. */
export interface Target {
  readonly where: RepositoryName;
  readonly client: RegistryClient;
}

export function isSameRepository(a: RepositoryName, b: RepositoryName): boolean {
  return a.upstream === b.upstream && a.repository === b.repository;
}

/** An upstream that is not configured by its name but allowed, null if it is not. */
export type FindUpstream = (name: string) => Upstream | null;

/** How an upstream is, for metrics and status pages. */
export interface UpstreamState {
  readonly name: string;
  /** What the registry itself said last about how much the proxy's own account may still pull. */
  readonly quota: RegistryQuota | null;
  /** Its mirrors in their order, then the registry itself. */
  readonly endpoints: readonly EndpointState[];
}

/** The upstreams, and which of them a request means. No registry that is neither configured nor allowed is contacted. */
export class Upstreams {
  #byName: ReadonlyMap<string, Upstream>;
  #default: Upstream;
  readonly #allowed: FindUpstream;
  readonly #retired: Upstream[] = [];

  /** `defaultName` is one of the upstreams' names. */
  constructor(upstreams: readonly Upstream[], defaultName: string, allowed: FindUpstream = () => null) {
    this.#byName = new Map(upstreams.map((upstream) => [upstream.name, upstream]));
    this.#allowed = allowed;
    this.#default = this.#find(defaultName);
  }

  /** The name of the one that requests mean which name none. */
  get defaultName(): string {
    return this.#default.name;
  }

  /** From now on these. What is under way with those before goes on: they are closed at the end. */
  replace(upstreams: readonly Upstream[], defaultName: string): void {
    const before = this.#byName;
    this.#byName = new Map(upstreams.map((upstream) => [upstream.name, upstream]));
    this.#default = this.#find(defaultName);
    this.#retired.push(...[...before.values()].filter((upstream) => !upstreams.includes(upstream)));
  }

  /** One that was opened before. */
  get(name: string): Upstream | null {
    return this.#byName.get(name) ?? null;
  }

  /**
   * By the `ns` parameter (distribution-spec, "Registry Proxying"), else by a name that begins with an
   * upstream's, else the default upstream.
   * @throws RequestError NAME_UNKNOWN for an upstream that is neither configured nor allowed, so that the client
   *   goes on to its next mirror; NAME_INVALID
   */
  choose(name: string, namespace: string | null): Target {
    if (namespace !== null) return target(this.#find(namespace), name);
    const slash = name.indexOf('/');
    const first = slash === -1 ? '' : name.slice(0, slash);
    const named = this.#byName.get(first) ?? (first.includes('.') ? this.#allowed(first) : null);
    if (named !== null) return target(named, name.slice(slash + 1));
    // No repository's name can hold a port: this is another registry.
    if (first.includes(':')) return target(this.#find(first), name.slice(slash + 1));
    return target(this.#default, name);
  }

  /** @throws RequestError NAME_UNKNOWN */
  of(where: RepositoryName): Target {
    return { where, client: this.#find(where.upstream).client };
  }

  /** The configured ones. */
  states(): UpstreamState[] {
    return [...this.#byName.values()].map(({ name, client }) => {
      return { name, quota: client.quota(), endpoints: client.endpoints() };
    });
  }

  async close(): Promise<void> {
    await Promise.all(
      [...this.#byName.values(), ...this.#retired].map((upstream) => upstream.client.close()),
    );
  }

  #find(name: string): Upstream {
    const upstream = this.#byName.get(name) ?? this.#allowed(name);
    if (upstream !== null) return upstream;
    const names = [...this.#byName.keys()].join(', ');
    throw new RequestError('NAME_UNKNOWN', `${quote(name)} is none of this proxy's upstreams (${names})`);
  }
}

function target(upstream: Upstream, name: string): Target {
  // Docker Hub's own images have no namespace in what people write.
  const repository = upstream.name === DEFAULT_REGISTRY && !name.includes('/') ? `library/${name}` : name;
  if (!isRepository(repository)) {
    throw new RequestError('NAME_INVALID', `${quote(name)} is not a repository name`);
  }
  return { where: { upstream: upstream.name, repository }, client: upstream.client };
}

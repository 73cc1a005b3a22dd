import type { Digest } from '../../oci/digest.ts';
import type { ServedRequest } from '../../oci/serving/answer.ts';
import type { RepositoryName } from '../../store/catalog.ts';
import type { Target } from '../upstream/upstreams.ts';

/** What of a repository somebody wants to see. */
export type Claim =
  | { readonly kind: 'manifest'; readonly reference: string }
  | { readonly kind: 'blob'; readonly digest: Digest }
  /** Its tags. */
  | { readonly kind: 'repository' };

/** A request about a repository, before anybody knows whether its caller may read it. */
export interface Asked {
  /** The repository, as the client's path says it. */
  readonly name: string;
  /** With the proxy's own client for the upstream. */
  readonly target: Target;
  readonly claim: Claim;
}

/**
 * Who may read. Every request passes here before its handler sees it: nothing that is kept, or how it stands with it,
 * is looked up before.
 */
export interface Access {
  /** Whether rights differ from repository to repository: then to know a digest from one is no right in another. */
  readonly isPerRepository: boolean;

  /**
   * To be awaited first, whatever the request is about.
   * @throws RequestError UNAUTHORIZED with a challenge, UNAVAILABLE
   */
  admit(request: ServedRequest): Promise<void>;

  /**
   * The base `/v2/`, where clients find out how to authenticate.
   * @throws RequestError UNAUTHORIZED with a challenge
   */
  base(request: ServedRequest): void;

  /**
   * The target as this caller may read it: on whose behalf upstream is asked is decided here.
   * @throws RequestError UNAUTHORIZED with a challenge, DENIED, UNAVAILABLE (the right cannot be checked now);
   *   RegistryError ERR_REGISTRY_NOT_FOUND; the same for what is kept and what is not
   */
  authorise(asked: Asked, request: ServedRequest): Promise<Target>;

  /**
   * To be called before anything is shown that covers more than one repository (`_catalog`).
   * @throws RequestError DENIED
   */
  mayListAll(): void;

  /** The target for work that nobody waits for: on behalf of one who could read it of late, or of the proxy. */
  background(where: RepositoryName): Target;
}

/** Everybody reads what the proxy itself may read upstream. */
export class OpenAccess implements Access {
  readonly isPerRepository = false;
  readonly #own: (where: RepositoryName) => Target;

  /** @param own the target with the proxy's own client */
  constructor(own: (where: RepositoryName) => Target) {
    this.#own = own;
  }

  async admit(_request: ServedRequest): Promise<void> {}

  base(_request: ServedRequest): void {}

  async authorise({ target }: Asked): Promise<Target> {
    return target;
  }

  mayListAll(): void {}

  background(where: RepositoryName): Target {
    return this.#own(where);
  }
}

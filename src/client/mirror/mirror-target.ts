import { DEFAULT_REGISTRY, isRepository } from '../../oci/reference.ts';
import { quote } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';

/** Where upstream something is. */
export interface MirrorTarget {
  /** As in references: `docker.io`. */
  readonly registry: string;
  readonly repository: string;
}

const REGISTRY = /^[A-Za-z0-9.-]+(?::\d{1,5})?$|^\[[0-9a-fA-F:.]+\](?::\d{1,5})?$/;

/**
 * Which repository of which registry a request means: by `ns`, which containerd sends; by a path that begins with a
 * host, as podman's mirrors have it; else the default registry's.
 * @param name of the path
 * @param namespace `ns` (Distribution spec, "Registry Proxying")
 * @throws RequestError NAME_INVALID, NAME_UNKNOWN
 */
export function targetOf(name: string, namespace: string | null, defaultRegistry: string): MirrorTarget {
  if (namespace !== null) return checked(namespace, name);
  const slash = name.indexOf('/');
  const first = slash === -1 ? '' : name.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === 'localhost';
  return isHost ? checked(first, name.slice(slash + 1)) : checked(defaultRegistry, name);
}

function checked(registry: string, name: string): MirrorTarget {
  if (!REGISTRY.test(registry))
    throw new RequestError('NAME_UNKNOWN', `${quote(registry)} is not a registry`);
  // Docker Hub's own images have no namespace in what people write.
  const repository = registry === DEFAULT_REGISTRY && !name.includes('/') ? `library/${name}` : name;
  if (!isRepository(repository)) {
    throw new RequestError('NAME_INVALID', `${quote(name)} is not a repository name`);
  }
  return { registry, repository };
}

import { type Digest, parseDigest } from './digest.ts';
import { OciError } from './errors.ts';

export const DEFAULT_REGISTRY = 'docker.io';
const DEFAULT_TAG = 'latest';
const MAX_NAME_LENGTH = 255;
const MAX_REFERENCE_LENGTH = 1024;

/** An image somewhere: `registry/repository:tag@digest`, of which it has a tag, a digest or both. */
export interface Reference {
  /** Host with optional port, as people write it: `docker.io`, `localhost:5000`, `[::1]:5000`. */
  readonly registry: string;
  readonly repository: string;
  readonly tag: string | null;
  /** Decides, if there is a tag too. */
  readonly digest: Digest | null;
}

/** Distribution spec, "Pulling manifests": the grammars of `<name>` and of a tag. */
const NAME_PATTERN = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG_PATTERN = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const REGISTRY_PATTERN = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?$/;

export function isRepository(text: string): boolean {
  return text.length <= MAX_NAME_LENGTH && NAME_PATTERN.test(text);
}

export function isTag(text: string): boolean {
  return TAG_PATTERN.test(text);
}

/**
 * Reads a reference as people write it. What lacks a registry is Docker Hub's, where a single name stands for
 * `library/NAME`; what lacks tag and digest is `:latest`.
 * @throws OciError ERR_REFERENCE_INVALID, ERR_DIGEST_INVALID
 */
export function parseReference(text: string): Reference {
  if (text.length > MAX_REFERENCE_LENGTH) throw invalid(`${text.slice(0, 60)}…`, 'it is too long');
  const at = text.indexOf('@');
  const digest = at === -1 ? null : parseDigest(text.slice(at + 1));
  const named = at === -1 ? text : text.slice(0, at);
  const colon = named.lastIndexOf(':');
  const hasTag = colon > named.lastIndexOf('/') && !named.endsWith(']');
  const tag = hasTag ? named.slice(colon + 1) : null;
  const { registry, repository } = splitRegistry(hasTag ? named.slice(0, colon) : named);
  if (!REGISTRY_PATTERN.test(registry)) throw invalid(text, `${JSON.stringify(registry)} is not a host`);
  if (!isRepository(repository)) {
    throw invalid(
      text,
      `${JSON.stringify(repository)} is not a repository (lower-case letters, digits, ._-/)`,
    );
  }
  if (tag !== null && !isTag(tag)) throw invalid(text, `${JSON.stringify(tag)} is not a tag`);
  return { registry, repository, tag: tag ?? (digest === null ? DEFAULT_TAG : null), digest };
}

/** Its text in full: {@link parseReference} of it gives the same reference again. */
export function formatReference({ registry, repository, tag, digest }: Reference): string {
  return `${registry}/${repository}${tag === null ? '' : `:${tag}`}${digest === null ? '' : `@${digest}`}`;
}

/** As Docker does: the first component is a host if it looks like one or is `localhost`. */
function splitRegistry(name: string): { registry: string; repository: string } {
  const slash = name.indexOf('/');
  const first = slash === -1 ? '' : name.slice(0, slash);
  const isHost = first === 'localhost' || /[.:\]]/.test(first) || first !== first.toLowerCase();
  const registry = isHost ? first : DEFAULT_REGISTRY;
  const repository = isHost ? name.slice(slash + 1) : name;
  if (registry !== DEFAULT_REGISTRY && registry !== 'index.docker.io') return { registry, repository };
  return {
    registry: DEFAULT_REGISTRY,
    repository: repository.includes('/') ? repository : `library/${repository}`,
  };
}

function invalid(text: string, reason: string): OciError {
  return new OciError(
    'ERR_REFERENCE_INVALID',
    `not an image reference: ${JSON.stringify(text)}: ${reason}; expected [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`,
  );
}

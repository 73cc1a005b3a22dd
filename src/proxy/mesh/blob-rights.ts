import { LRUCache } from 'lru-cache';
import type { Digest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import type { ServedRequest } from '../../oci/serving/answer.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { MeshRepository, MeshRights } from '../../p2p/root/root-routes.ts';
import type { Access } from '../access/access.ts';
import type { Blobs } from '../content/blobs.ts';
import type { Upstreams } from '../upstream/upstreams.ts';

interface Parts {
  readonly access: Access;
  readonly upstreams: Pick<Upstreams, 'choose'>;
  readonly blobs: Pick<Blobs, 'sizeBytes'>;
}

/** How long a blob is taken to be there that was: all hosts that start an image ask for the same ones. */
const THERE_MS = 1_000;
const MAX_THERE = 10_000;

/** Who may read a blob through the proxy may join its tree: asked as HEAD of the blob is. */
export class BlobRights implements MeshRights {
  readonly #parts: Parts;
  /** By repository and blob, whoever asked. */
  readonly #there = new LRUCache<string, true>({ max: MAX_THERE, ttl: THERE_MS });

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  admit(request: ServedRequest): Promise<void> {
    return this.#parts.access.admit(request);
  }

  async refusal(
    blob: Digest,
    { repository, ns }: MeshRepository,
    request: ServedRequest,
  ): Promise<string | null> {
    const { access, upstreams, blobs } = this.#parts;
    const chosen = upstreams.choose(repository, ns);
    const claim = { kind: 'blob', digest: blob } as const;
    try {
      const target = await access.authorise({ name: repository, target: chosen, claim }, request);
      const { where } = target;
      const key = `${where.upstream}/${where.repository}@${blob}`;
      if (this.#there.has(key)) return null;
      await blobs.sizeBytes(target, blob, request.signal);
      this.#there.set(key, true);
      return null;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return `${repository} has no ${blob} that you may read`;
    }
  }
}

/** As opposed to a question of who asks, and to one that cannot be answered now. */
function isRefusal(error: unknown): boolean {
  if (error instanceof RequestError) return error.distributionCode === 'DENIED';
  if (!(error instanceof RegistryError)) return false;
  return error.code === 'ERR_REGISTRY_NOT_FOUND' || error.code === 'ERR_REGISTRY_UNAUTHORIZED';
}

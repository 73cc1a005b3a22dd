import type { EndedRequest } from '../../oci/serving/http-side.ts';

const KEPT = 50;

/** A manifest that somebody got. */
export interface Pull {
  /** ISO 8601. */
  readonly at: string;
  readonly upstream: string;
  readonly repository: string;
  /** Tag or digest. */
  readonly reference: string;
  readonly source: string;
}

/** The last pulls, for people to look at. */
export class RecentPulls {
  readonly #pulls: Pull[] = [];

  requestEnded({ method, status, notes }: EndedRequest): void {
    const { kind, upstream, repository, reference, source } = notes;
    if (kind !== 'manifest' || method !== 'GET' || status === null || status >= 300) return;
    if (upstream === undefined || repository === undefined || reference === undefined) return;
    const at = new Date().toISOString();
    this.#pulls.unshift({ at, upstream, repository, reference, source: source ?? 'unknown' });
    this.#pulls.length = Math.min(this.#pulls.length, KEPT);
  }

  /** The newest first. */
  list(): readonly Pull[] {
    return [...this.#pulls];
  }
}

import { unlessAborted } from '../../format/unless-aborted.ts';
import { RegistryError } from '../../oci/errors.ts';
import type { Target } from './upstreams.ts';

/** How long upstream may take where there is an answer without it, too. */
const ANSWER_MS = 5_000;
/** An upstream that did not answer is asked again after this time, by one caller. */
const OUTAGE_MS = 10_000;

interface Outage {
  readonly error: RegistryError;
  /** On the clock of `performance.now()`. */
  untilMs: number;
}

/**
 * Which upstreams did not answer a moment ago. For questions that can do without them: not every client has to find
 * out for itself, and wait for it.
 */
export class Outages {
  readonly #outages = new Map<string, Outage>();

  /** Why an upstream is not asked at the moment; null if it is. */
  reason(upstream: string): string | null {
    const known = this.#outages.get(upstream);
    return known !== undefined && performance.now() < known.untilMs ? known.error.message : null;
  }

  /**
   * The answer to `question`, if upstream gives one soon. The question goes on when it does not, as long as its client
   * waits: what comes of it late, it keeps for the next one who asks.
   * @throws RegistryError, also the one of a moment ago
   */
  async ask<T>({ where, client }: Target, question: () => Promise<T>): Promise<T> {
    const { upstream, repository } = where;
    const known = this.#outages.get(upstream);
    if (known !== undefined) {
      if (performance.now() < known.untilMs) throw momentAgo(client.host, repository, known.error);
      known.untilMs = performance.now() + OUTAGE_MS;
    }
    const timeout = AbortSignal.timeout(ANSWER_MS);
    try {
      const answer = await unlessAborted(question(), timeout);
      this.#outages.delete(upstream);
      return answer;
    } catch (cause) {
      const error = timeout.aborted ? silence(client.host, repository) : cause;
      const isOutage = error instanceof RegistryError && error.code === 'ERR_REGISTRY_UNREACHABLE';
      if (isOutage) this.#outages.set(upstream, { error, untilMs: performance.now() + OUTAGE_MS });
      else this.#outages.delete(upstream);
      throw error;
    }
  }
}

/** What went wrong then names what another one asked for: that is for the log. */
function momentAgo(host: string, repository: string, cause: RegistryError): RegistryError {
  const context = { host, repository, reference: null };
  return new RegistryError('ERR_REGISTRY_UNREACHABLE', context, 'it did not answer a moment ago', { cause });
}

function silence(host: string, repository: string): RegistryError {
  const context = { host, repository, reference: null };
  return new RegistryError('ERR_REGISTRY_UNREACHABLE', context, `no answer within ${ANSWER_MS / 1000} s`);
}

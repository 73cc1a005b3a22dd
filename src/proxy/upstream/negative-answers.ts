import { LRUCache } from 'lru-cache';
import { RegistryError } from '../../oci/errors.ts';
import type { RegistryClient } from '../../oci/registry-client.ts';
import type { Target } from './upstreams.ts';

const MAX_ANSWERS = 10_000;

/**
 * What an upstream said a moment ago that it does not have: a thousand nodes that ask for a missing image are one
 * request. Only that: refusals, limits and outages say nothing about what there is.
 */
export class NegativeAnswers {
  readonly #ttlMs: () => number;
  readonly #known = new LRUCache<string, RegistryError>({ max: MAX_ANSWERS });
  /** What one caller is told is none of another one's business: a client speaks for one. */
  readonly #clients = new WeakMap<RegistryClient, number>();
  #nextClient = 0;

  constructor(ttlMs: () => number) {
    this.#ttlMs = ttlMs;
  }

  /**
   * The answer to `question`, which is asked unless upstream said a moment ago that it does not have it.
   * @param reference names what is asked for in the target's repository
   */
  async ask<T>(target: Target, reference: string, question: () => Promise<T>): Promise<T> {
    this.check(target, reference);
    try {
      const answer = await question();
      this.#known.delete(this.#key(target, reference));
      return answer;
    } catch (error) {
      this.failed(target, reference, error);
      throw error;
    }
  }

  /** @throws RegistryError ERR_REGISTRY_NOT_FOUND if that was said a moment ago */
  check(target: Target, reference: string): void {
    const known = this.#known.get(this.#key(target, reference));
    if (known !== undefined) throw known;
  }

  /** A question ended so. */
  failed(target: Target, reference: string, error: unknown): void {
    const ttl = this.#ttlMs();
    if (ttl === 0 || !(error instanceof RegistryError) || error.code !== 'ERR_REGISTRY_NOT_FOUND') return;
    this.#known.set(this.#key(target, reference), error, { ttl });
  }

  #key({ where, client }: Target, reference: string): string {
    let number = this.#clients.get(client);
    if (number === undefined) {
      number = this.#nextClient++;
      this.#clients.set(client, number);
    }
    return `${number} ${where.upstream} ${where.repository} ${reference}`;
  }
}

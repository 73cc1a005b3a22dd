import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { LRUCache } from 'lru-cache';

/** Who asks, as far as the request says so. */
export interface Caller {
  /** What the proxy is shown; null for nobody in particular. */
  readonly authorization: string | null;
  /** The same for the same secret; does not tell it. */
  readonly identity: string;
}

const ANYBODY: Caller = { authorization: null, identity: 'anybody' };
const MAX_TOKENS = 10_000;
const BEARER = /^bearer +(\S+)$/i;
const BASIC = /^basic +\S+$/i;

/**
 * Knows who stands behind the tokens that proxies gave away through us. The proxies are then shown the credentials
 * themselves: these outlast the token, and each proxy takes them.
 */
export class Callers {
  readonly #basicByToken = new LRUCache<string, string>({ max: MAX_TOKENS });

  /** Notes for whose credentials a token was given. */
  tokenGiven(token: string, authorization: string, lifetimeMs: number): void {
    if (BASIC.test(authorization)) this.#basicByToken.set(hashOf(token), authorization, { ttl: lifetimeMs });
  }

  callerOf({ authorization }: Pick<IncomingHttpHeaders, 'authorization'>): Caller {
    if (authorization === undefined || authorization === '') return ANYBODY;
    const token = BEARER.exec(authorization)?.[1];
    const shown = (token === undefined ? undefined : this.#basicByToken.get(hashOf(token))) ?? authorization;
    return { authorization: shown, identity: hashOf(shown) };
  }
}

/** Whether anybody may do what this caller may. */
export function isAnybody({ authorization }: Caller): boolean {
  return authorization === null;
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('base64');
}

import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { z } from 'zod';
import type { ServedRequest } from '../../oci/serving/answer.ts';
import { type Caller, callerOf } from '../http/caller.ts';

/** Marks our own tokens, so that those of others are told apart. */
const PREFIX = 'dadi1.';
const LIFETIME_SECONDS = 900;
/** The key is good for this long after the client was told to ask again: pulls do not break off at the second. */
const GRACE_SECONDS = 60;
const CIPHER = 'aes-256-gcm';
const IV_BYTES = 12;
const TAG_BYTES = 16;

/** Where clients get tokens. */
export const TOKEN_PATH = '/dadi/v1/token';
const SERVICE = 'dadi-mirror';

const contentSchema = z.object({
  /** Seconds since 1970. */
  until: z.number(),
  credentials: z.object({ username: z.string(), password: z.string() }).nullable(),
});

/** Who is meant by a token that is given to {@link AccessTokens.open}; null for one that is expired or not ours. */
type Opened = Exclude<Caller, { kind: 'bearer' }> | null;

/**
 * Tokens that carry a caller's own credentials, sealed. They give no right: what the credentials are good for is asked
 * of upstream each time. Docker, podman and containerd send credentials only where they are asked for them, and only
 * for tokens is it so that those without credentials go on, too.
 */
export class AccessTokens {
  readonly #key: Buffer;

  /** @param secret shared by all replicas; null for one of this process's own */
  constructor(secret: string | null) {
    const material = secret === null ? randomBytes(32) : Buffer.from(secret);
    this.#key = Buffer.from(hkdfSync('sha256', material, '', 'dadi-mirror access token', 32));
  }

  /** What `Authorization` says, our own tokens opened. Null if it is nothing that could be believed. */
  callerOf({ headers }: Pick<ServedRequest, 'headers'>): Opened {
    const caller = callerOf(headers);
    return caller?.kind === 'bearer' ? this.open(caller.token) : caller;
  }

  /** The answer of a token service (Distribution, "Token Authentication Specification"). */
  issue({ headers }: Pick<ServedRequest, 'headers'>): object | null {
    const caller = callerOf(headers);
    if (caller === null || caller.kind === 'bearer') return null;
    const nowMs = Date.now();
    const token = this.seal(caller.kind === 'basic' ? caller : { kind: 'anonymous' }, nowMs);
    return {
      token,
      access_token: token,
      expires_in: LIFETIME_SECONDS,
      issued_at: new Date(nowMs).toISOString(),
    };
  }

  seal(caller: Exclude<Opened, null>, nowMs: number): string {
    const content: z.input<typeof contentSchema> = {
      until: Math.floor(nowMs / 1000) + LIFETIME_SECONDS + GRACE_SECONDS,
      credentials: caller.kind === 'basic' ? caller.credentials : null,
    };
    const iv = randomBytes(IV_BYTES);
    const cipher = createCipheriv(CIPHER, this.#key, iv);
    const sealed = [iv, cipher.update(JSON.stringify(content)), cipher.final(), cipher.getAuthTag()];
    return `${PREFIX}${Buffer.concat(sealed).toString('base64url')}`;
  }

  open(token: string): Opened {
    if (!token.startsWith(PREFIX)) return null;
    const sealed = Buffer.from(token.slice(PREFIX.length), 'base64url');
    if (sealed.length <= IV_BYTES + TAG_BYTES) return null;
    try {
      const decipher = createDecipheriv(CIPHER, this.#key, sealed.subarray(0, IV_BYTES));
      decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
      const text = decipher.update(sealed.subarray(IV_BYTES, -TAG_BYTES), undefined, 'utf8');
      const { until, credentials } = contentSchema.parse(JSON.parse(text + decipher.final('utf8')));
      if (until * 1000 < Date.now()) return null;
      return credentials === null ? { kind: 'anonymous' } : { kind: 'basic', credentials };
    } catch {
      return null;
    }
  }
}

/**
 * The challenge that sends a client to {@link TOKEN_PATH}.
 * @param origin where the client reaches us: `https://mirror.example:5100`
 * @param name the repository, as the client's path says it; null for the base
 * @param error why what it sent is not enough, if it sent something (RFC 6750, 3.1)
 */
export function tokenChallenge(
  origin: string,
  name: string | null,
  error: 'invalid_token' | 'insufficient_scope' | null,
): { readonly 'www-authenticate': string } {
  const parts = [`realm="${origin}${TOKEN_PATH}"`, `service="${SERVICE}"`];
  if (name !== null) parts.push(`scope="repository:${name}:pull"`);
  if (error !== null) parts.push(`error="${error}"`);
  return { 'www-authenticate': `Bearer ${parts.join(',')}` };
}

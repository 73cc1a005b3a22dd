import { readFileSync } from 'node:fs';
import { unlessAborted } from '../format/unless-aborted.ts';
import { OciError } from './errors.ts';

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

/** What proves to a registry, or to the token service that it names, who asks. */
export type Secret =
  | ({ readonly kind: 'password' } & Credentials)
  /** Good for tokens only: a refresh token of the registry's token service. */
  | { readonly kind: 'identity-token'; readonly token: string }
  /** An `Authorization` header as somebody sent it; it is passed on as it is, to the registry alone. */
  | { readonly kind: 'authorization'; readonly value: string };

/** Where secrets come from; they may change while we run. */
export interface CredentialsProvider {
  /**
   * What to show now, null for nothing.
   * @throws OciError ERR_CREDENTIALS; the signal's reason
   */
  current(signal: AbortSignal | undefined): Promise<Secret | null>;
  /** To be told of a secret that was refused: there may be a newer one. */
  refused(secret: Secret): void;
}

export function fixedCredentials(credentials: Credentials | null): CredentialsProvider {
  return fixedSecret(credentials === null ? null : { kind: 'password', ...credentials });
}

export function fixedSecret(secret: Secret | null): CredentialsProvider {
  return { current: async () => secret, refused: () => {} };
}

/** What a caller's `Authorization` header says: user and password where it is Basic, so that it serves for tokens too. */
export function secretOfAuthorization(value: string): Secret {
  const [, encoded] = /^basic +([A-Za-z0-9+/=_-]+)$/i.exec(value) ?? [];
  const credentials = encoded === undefined ? null : decodeUserAndPassword(encoded);
  return credentials === null ? { kind: 'authorization', value } : { kind: 'password', ...credentials };
}

export function basicAuthorization({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

/** Base64 of `user:password`; null if it is something else. */
export function decodeUserAndPassword(base64: string): Credentials | null {
  const text = Buffer.from(base64, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  if (colon <= 0) return null;
  // Old versions of Docker padded it with zero bytes.
  return { username: text.slice(0, colon), password: text.slice(colon + 1).replace(/\0+$/, '') };
}

/** A string that two secrets share only if they are the same; it holds the secret. */
export function secretKey(secret: Secret): string {
  switch (secret.kind) {
    case 'password':
      return JSON.stringify([secret.kind, secret.username, secret.password]);
    case 'identity-token':
      return JSON.stringify([secret.kind, secret.token]);
    case 'authorization':
      return JSON.stringify([secret.kind, secret.value]);
  }
}

export interface CachingTimes {
  /** How long a secret is used before it is fetched again. */
  readonly ttlMs: number;
  /** A secret that is younger than this is not fetched again for having been refused, nor a failure repeated. */
  readonly minAgeMs: number;
}

const DEFAULT_TIMES: CachingTimes = { ttlMs: 5 * 60_000, minAgeMs: 10_000 };

type Loaded =
  | { readonly kind: 'secret'; readonly secret: Secret | null; readonly atMs: number }
  | { readonly kind: 'failure'; readonly error: unknown; readonly atMs: number };

/** Secrets that take something to fetch (a file, a program), kept for a while. */
export class CachedCredentials implements CredentialsProvider {
  readonly #load: () => Promise<Secret | null>;
  readonly #times: CachingTimes;
  #loaded: Loaded | null = null;
  #isRefused = false;
  #pending: Promise<Loaded> | null = null;

  constructor(load: () => Promise<Secret | null>, times: Partial<CachingTimes> = {}) {
    this.#load = load;
    this.#times = { ...DEFAULT_TIMES, ...times };
  }

  async current(signal: AbortSignal | undefined): Promise<Secret | null> {
    const loaded = this.#fresh() ?? (await unlessAborted(this.#reload(), signal));
    if (loaded.kind === 'failure') throw loaded.error;
    return loaded.secret;
  }

  refused(secret: Secret): void {
    const mine = this.#loaded?.kind === 'secret' ? this.#loaded.secret : null;
    if (mine !== null && secretKey(mine) === secretKey(secret)) this.#isRefused = true;
  }

  #fresh(): Loaded | null {
    if (this.#loaded === null) return null;
    const { ttlMs, minAgeMs } = this.#times;
    const lifetimeMs = this.#isRefused || this.#loaded.kind === 'failure' ? minAgeMs : ttlMs;
    return performance.now() - this.#loaded.atMs < lifetimeMs ? this.#loaded : null;
  }

  #reload(): Promise<Loaded> {
    this.#pending ??= this.#load()
      .then(
        (secret): Loaded => ({ kind: 'secret', secret, atMs: performance.now() }),
        (error: unknown): Loaded => ({ kind: 'failure', error, atMs: performance.now() }),
      )
      .then((loaded) => {
        this.#pending = null;
        this.#isRefused = false;
        this.#loaded = loaded;
        return loaded;
      });
    return this.#pending;
  }
}

/**
 * The first line of a file that holds a password or a token.
 * @throws OciError ERR_CREDENTIALS
 */
export function readSecretFile(path: string): string {
  const [secret = ''] = readTextFile(path).split(/\r?\n/, 1);
  if (secret !== '') return secret;
  throw new OciError('ERR_CREDENTIALS', `${path} is empty; put the secret on its first line`);
}

function readTextFile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `cannot read the secret in ${path} (${reason}); put it there, readable for this process`;
    throw new OciError('ERR_CREDENTIALS', message, { cause });
  }
}

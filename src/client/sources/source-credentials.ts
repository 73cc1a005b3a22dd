import { readFileSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { errorCode, isSystemError } from '../../format/error-code.ts';
import {
  type CredentialsProvider,
  fixedSecret,
  type Secret,
  secretKey,
  secretOfAuthorization,
} from '../../oci/credentials.ts';
import { digestOf } from '../../oci/digest.ts';
import { dockerConfigCredentials } from '../../oci/docker-config.ts';

/** A repository of a registry, as references name them. */
export interface RepositoryAt {
  readonly registry: string;
  readonly repository: string;
}

/** In whose name a proxy may be asked. */
export interface Identity {
  /** The same for the same secret; does not tell it. */
  readonly id: string;
  /** Null: nobody's. */
  readonly provider: CredentialsProvider | null;
}

const NOBODY: Identity = { id: 'nobody', provider: null };
const MAX_REMEMBERED = 4096;

const fileSchema = z.array(z.tuple([z.string(), z.string()]));

export interface SourceCredentialsOptions {
  /** Keeps what pulls brought over a restart, in the clear, readable for this user only; null: in memory alone. */
  readonly file: string | null;
  /** The daemon's own: a Docker configuration file, with its credential helpers; null for none. */
  readonly dockerConfig: string | null;
  /** Told of what does not keep anybody from going on. */
  readonly onProblem?: (problem: string, error: unknown) => void;
}

/**
 * Credentials for registries, shown to proxies that ask for them: those that a runtime sent with a pull of the
 * repository, then the daemon's own for the proxy and for the registry, then none.
 */
export class SourceCredentials {
  readonly #options: SourceCredentialsOptions;
  /** `Authorization` headers by registry and repository. */
  readonly #remembered = new LRUCache<string, string>({ max: MAX_REMEMBERED });
  readonly #own = new Map<string, CredentialsProvider>();
  /** Some are not in the file yet. */
  #areNew = false;
  #saving: Promise<void> | null = null;

  constructor(options: SourceCredentialsOptions) {
    this.#options = options;
    if (options.file !== null) this.#read(options.file);
  }

  /** Keeps the `Authorization` header of a pull, for reads of that repository. */
  remember(registry: string, repository: string, authorization: string): void {
    const key = `${registry}/${repository}`;
    if (this.#remembered.get(key) === authorization) return;
    this.#remembered.set(key, authorization);
    if (this.#options.file === null) return;
    this.#areNew = true;
    this.#saving ??= this.#save(this.#options.file);
  }

  /** Resolves once what was remembered so far is in the file, or could not be put there. */
  async saved(): Promise<void> {
    await this.#saving;
  }

  /** What to try, in this order. @param proxyHost host with port */
  async identities(
    where: RepositoryAt,
    proxyHost: string,
    signal: AbortSignal | undefined,
  ): Promise<readonly Identity[]> {
    const remembered = this.#remembered.get(`${where.registry}/${where.repository}`);
    const found: Identity[] = [];
    if (remembered !== undefined) {
      const secret = secretOfAuthorization(remembered);
      found.push({ id: idOf(secret), provider: fixedSecret(secret) });
    }
    for (const host of [proxyHost, where.registry]) {
      const provider = this.#ownFor(host);
      const secret = provider === null ? null : await this.#current(provider, host, signal);
      if (secret !== null) found.push({ id: idOf(secret), provider });
    }
    return [...found, NOBODY];
  }

  async #current(
    provider: CredentialsProvider,
    host: string,
    signal: AbortSignal | undefined,
  ): Promise<Secret | null> {
    try {
      return await provider.current(signal);
    } catch (error) {
      signal?.throwIfAborted();
      this.#options.onProblem?.(`the credentials for ${host} cannot be read`, error);
      return null;
    }
  }

  #ownFor(host: string): CredentialsProvider | null {
    const { dockerConfig } = this.#options;
    if (dockerConfig === null) return null;
    let provider = this.#own.get(host);
    if (provider === undefined) {
      provider = dockerConfigCredentials(dockerConfig, host);
      this.#own.set(host, provider);
    }
    return provider;
  }

  #read(file: string): void {
    try {
      for (const [key, value] of fileSchema.parse(JSON.parse(readFileSync(file, 'utf8')))) {
        this.#remembered.set(key, value);
      }
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) return;
      // Not what the parser says: it may quote a secret.
      const reason = errorCode(error) === null ? null : error;
      this.#options.onProblem?.(`the credentials of earlier pulls in ${file} cannot be read`, reason);
    }
  }

  /** Once for all that come while it is being written: tokens of busy hosts are many, and change with each pull. */
  async #save(file: string): Promise<void> {
    const half = `${file}.new`;
    while (this.#areNew) {
      this.#areNew = false;
      try {
        // The oldest first: so they are read in the order of their last use.
        const entries = [...this.#remembered.entries()].reverse();
        await writeFile(half, JSON.stringify(entries), { mode: 0o600 });
        await rename(half, file);
      } catch (error) {
        this.#options.onProblem?.(`the credentials of pulls cannot be kept in ${file}`, error);
      }
    }
    this.#saving = null;
  }
}

function idOf(secret: Secret): string {
  return digestOf(secretKey(secret));
}

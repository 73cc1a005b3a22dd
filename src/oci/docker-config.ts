import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { askCredentialHelper } from './credential-helper.ts';
import {
  CachedCredentials,
  type CachingTimes,
  type CredentialsProvider,
  decodeUserAndPassword,
  type Secret,
} from './credentials.ts';
import { OciError } from './errors.ts';
import { DEFAULT_REGISTRY } from './reference.ts';

/** Docker Hub's name in Docker's configuration and for its helpers. */
const DOCKER_HUB_SERVER = 'https://index.docker.io/v1/';
const DOCKER_HUB_HOSTS: ReadonlySet<string> = new Set([
  DEFAULT_REGISTRY,
  'index.docker.io',
  'registry-1.docker.io',
]);

const entrySchema = z.object({
  auth: z.string().optional(),
  username: z.string().optional(),
  password: z.string().optional(),
  identitytoken: z.string().optional(),
});

const configSchema = z.object({
  auths: z.record(z.string(), entrySchema).default({}),
  credsStore: z.string().optional(),
  credHelpers: z.record(z.string(), z.string()).default({}),
});

type DockerConfig = z.output<typeof configSchema>;

/**
 * Credentials for one registry out of a Docker configuration file (`~/.docker/config.json`), which is read again
 * now and then: a helper for that registry, else the helper for all, else what stands in the file.
 * @param host host with optional port, as in image names
 */
export function dockerConfigCredentials(
  path: string,
  host: string,
  times: Partial<CachingTimes> = {},
): CredentialsProvider {
  return new CachedCredentials(async () => lookUp(readDockerConfig(path), host, path), times);
}

/** Credentials for one registry from a credential helper alone. */
export function helperCredentials(
  name: string,
  host: string,
  times: Partial<CachingTimes> = {},
): CredentialsProvider {
  return new CachedCredentials(() => askCredentialHelper(name, serverOf(host)), times);
}

/** @throws OciError ERR_CREDENTIALS that names the file */
export function readDockerConfig(path: string): DockerConfig {
  const text = readTextFile(path);
  try {
    return configSchema.parse(JSON.parse(text));
  } catch (cause) {
    // Not what the parser says: it may quote the file's secrets.
    const message = `${path} is no Docker configuration: JSON with "auths", "credsStore" or "credHelpers"`;
    throw new OciError('ERR_CREDENTIALS', message, cause instanceof SyntaxError ? {} : { cause });
  }
}

function readTextFile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `cannot read the Docker configuration ${path} (${reason}); make it with docker login`;
    throw new OciError('ERR_CREDENTIALS', message, { cause });
  }
}

async function lookUp(config: DockerConfig, host: string, path: string): Promise<Secret | null> {
  const own = entryFor(config.credHelpers, host);
  const helper = own ?? config.credsStore ?? '';
  const found = helper === '' ? null : await askCredentialHelper(helper, serverOf(host));
  if (found !== null || own !== undefined) return found;
  const entry = entryFor(config.auths, host);
  return entry === undefined ? null : secretOf(entry, host, path);
}

function secretOf(entry: z.output<typeof entrySchema>, host: string, path: string): Secret | null {
  const { auth = '', username = '', password = '', identitytoken = '' } = entry;
  if (identitytoken !== '') return { kind: 'identity-token', token: identitytoken };
  if (username !== '') return { kind: 'password', username, password };
  if (auth === '') return null;
  const decoded = decodeUserAndPassword(auth);
  if (decoded !== null) return { kind: 'password', ...decoded };
  throw new OciError('ERR_CREDENTIALS', `"auth" of ${host} in ${path} is not base64 of user:password`);
}

function serverOf(host: string): string {
  return DOCKER_HUB_HOSTS.has(host) ? DOCKER_HUB_SERVER : host;
}

/** The entry under a registry's name; else under one of the URLs that older clients wrote for it. */
function entryFor<T>(entries: Readonly<Record<string, T>>, host: string): T | undefined {
  const server = serverOf(host);
  if (Object.hasOwn(entries, server)) return entries[server];
  return Object.entries(entries).find(([key]) => serverOf(hostOfKey(key) ?? '') === server)?.[1];
}

/**
 * The host of `https://HOST/v1/`, `HOST/v2/`, `HOST`. Null for what has another path: podman's way to name
 * credentials of single repositories, which are not good for the others.
 */
function hostOfKey(key: string): string | null {
  return /^(?:https?:\/\/)?([^/]+)(?:\/|\/v[12]\/?)?$/.exec(key)?.[1] ?? null;
}

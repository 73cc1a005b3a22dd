import type { Logger } from 'pino';
import { ConfigError } from '../../config/errors.ts';
import {
  CachedCredentials,
  type CredentialsProvider,
  fixedSecret,
  readSecretFile,
} from '../../oci/credentials.ts';
import { dockerConfigCredentials, helperCredentials, readDockerConfig } from '../../oci/docker-config.ts';
import { OciError } from '../../oci/errors.ts';
import type { RegistryAccess } from '../../oci/registry-client.ts';
import { readRegistryTls } from '../../oci/registry-tls.ts';
import type { AccessConfig, CredentialsConfig } from './upstream-config.ts';

/**
 * How an upstream or a mirror is reached, with what its files hold.
 * @param host by which credentials are looked up
 * @param key where this stands in the configuration
 * @throws ConfigError that names the key and the file
 */
export function openRegistryAccess(
  url: string,
  { tls, credentials }: AccessConfig,
  host: string,
  key: string,
  log: Logger,
): RegistryAccess {
  const baseUrl = new URL(url);
  if (tls !== undefined && baseUrl.protocol !== 'https:') {
    throw new ConfigError(`${key}.tls: ${url} is reached without TLS; write https:// or leave this out`);
  }
  const skipVerify = tls?.insecureSkipVerify ?? false;
  if (skipVerify) {
    log.warn(
      { upstream: baseUrl.host, key: `${key}.tls.insecureSkipVerify` },
      'CERTIFICATES ARE NOT CHECKED: whoever is between here and this upstream can read its credentials and change what its tags mean; give its authority as tls.ca instead',
    );
  }
  return {
    baseUrl,
    tls: baseUrl.protocol === 'https:' ? readTls(tls ?? {}, skipVerify, key) : null,
    credentials: credentials === undefined ? null : openCredentials(credentials, host, `${key}.credentials`),
  };
}

function readTls(files: Parameters<typeof readRegistryTls>[0], skipVerify: boolean, key: string) {
  try {
    return readRegistryTls(files, { skipVerify });
  } catch (error) {
    throw asConfigError(error, `${key}.tls`);
  }
}

/** What is a file must be there when the proxy starts; helpers are asked when they are needed. */
function openCredentials(
  { way, value, username }: CredentialsConfig,
  host: string,
  key: string,
): CredentialsProvider {
  try {
    switch (way) {
      case 'password':
        return fixedSecret({ kind: 'password', username, password: value });
      case 'passwordFile':
        readSecretFile(value);
        return new CachedCredentials(async () => ({
          kind: 'password',
          username,
          password: readSecretFile(value),
        }));
      case 'identityToken':
        return fixedSecret({ kind: 'identity-token', token: value });
      case 'identityTokenFile':
        readSecretFile(value);
        return new CachedCredentials(async () => ({ kind: 'identity-token', token: readSecretFile(value) }));
      case 'dockerConfig':
        readDockerConfig(value);
        return dockerConfigCredentials(value, host);
      case 'helper':
        return helperCredentials(value, host);
    }
  } catch (error) {
    throw asConfigError(error, `${key}.${way}`);
  }
}

function asConfigError(error: unknown, key: string): unknown {
  if (!(error instanceof OciError)) return error;
  return new ConfigError(`${key}: ${error.message}`, { cause: error });
}

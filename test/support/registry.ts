import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { get as getHttp } from 'node:http';
import { get as getHttps } from 'node:https';
import { basename, dirname, join } from 'node:path';
import { freePort, run, start } from './processes.ts';
import { type Account, startTokenServer, type TokenServer } from './token-server.ts';

const USERNAME = 'alice';
const PASSWORD = 'secret';
/** Of {@link USERNAME}, where tokens are wanted. */
export const IDENTITY_TOKEN = 'refresh-alice';
const SERVICE = 'test-registry';
const ISSUER = 'test-issuer';

export interface RegistryOptions {
  /** Takes all that the registry writes; may exist. */
  readonly dir: string;
  /** Who may read and write: anybody, or who knows {@link Registry.credentials}, sent as Basic or for a token. */
  readonly auth?: 'none' | 'basic' | 'token';
  readonly tls?: boolean;
  /** With TLS: only who shows the certificate in {@link Registry.certificatesDir} may connect. */
  readonly clientCertificates?: boolean;
  /** An address of this machine; by default 127.0.0.1. */
  readonly address?: '127.0.0.1' | '[::1]';
  /** With tokens: who else gets them. */
  readonly accounts?: readonly Account[];
  /** With tokens: what the repositories' names begin with that anybody may read. */
  readonly publicRepositories?: string;
}

/** A real registry (Debian's docker-registry) on a loopback port. */
export interface Registry {
  /** "127.0.0.1:PORT", as in image references. */
  readonly host: string;
  readonly baseUrl: URL;
  readonly credentials: { readonly username: string; readonly password: string } | null;
  /**
   * A directory with ca.crt, for clients that are to trust the registry, and if it asks for one a client's
   * certificate (client.cert, client.key); null without TLS.
   */
  readonly certificatesDir: string | null;
  readonly logPath: string;
  stop(): Promise<void>;
}

/**
 * Starts a registry and waits until it answers. Needs the capability `registry`, for basic auth `htpasswd`, for
 * tokens and TLS `openssl`.
 */
export async function startRegistry(options: RegistryOptions): Promise<Registry> {
  const { dir, auth = 'none', tls = false, clientCertificates = false, address = '127.0.0.1' } = options;
  mkdirSync(join(dir, 'data'), { recursive: true });
  const host = `${address}:${await freePort()}`;
  const baseUrl = new URL(`${tls ? 'https' : 'http'}://${host}`);
  const certificate = tls ? await makeCertificate(dir, 'certificates/ca.crt') : null;
  const client = clientCertificates ? await makeClientCertificate(dir) : null;
  const access = await setUpAccess(auth, options);
  const configPath = join(dir, 'config.yml');
  const config = {
    version: '0.1',
    // Foreign layers, and manifests of Docker's first kind: what older registries hold.
    validation: { manifests: { urls: { allow: ['.*'] } } },
    compatibility: { schema1: { enabled: true } },
    storage: { filesystem: { rootdirectory: join(dir, 'data') }, delete: { enabled: true } },
    http: {
      addr: host,
      ...(certificate && {
        tls: {
          certificate: certificate.certificatePath,
          key: certificate.keyPath,
          ...(client && { clientcas: [client.certificatePath] }),
        },
      }),
    },
    ...(access.config && { auth: access.config }),
  };
  // JSON is YAML.
  writeFileSync(configPath, JSON.stringify(config));
  const logPath = join(dir, 'registry.log');
  try {
    const registry = await start('docker-registry', ['serve', configPath], {
      logPath,
      readyWhen: () => answers(new URL('/v2/', baseUrl), client),
    });
    return {
      host,
      baseUrl,
      credentials: auth === 'none' ? null : { username: USERNAME, password: PASSWORD },
      certificatesDir: tls ? join(dir, 'certificates') : null,
      logPath,
      stop: async () => {
        await registry.stop();
        await access.tokenServer?.stop();
      },
    };
  } catch (error) {
    await access.tokenServer?.stop();
    throw error;
  }
}

interface Access {
  /** The part "auth" of the registry's configuration. */
  readonly config: object | null;
  readonly tokenServer: TokenServer | null;
}

async function setUpAccess(
  auth: 'none' | 'basic' | 'token',
  { dir, accounts = [], publicRepositories }: RegistryOptions,
): Promise<Access> {
  switch (auth) {
    case 'none':
      return { config: null, tokenServer: null };
    case 'basic': {
      const path = join(dir, 'htpasswd');
      const { stdout } = await run('htpasswd', ['-Bbn', USERNAME, PASSWORD]);
      writeFileSync(path, stdout);
      return { config: { htpasswd: { realm: 'basic-realm', path } }, tokenServer: null };
    }
    case 'token': {
      const { keyPath, certificatePath } = await makeCertificate(dir, 'issuer.crt');
      const account = { username: USERNAME, password: PASSWORD, refreshToken: IDENTITY_TOKEN };
      const all = [account, ...accounts];
      const names = { service: SERVICE, issuer: ISSUER };
      const tokenServer = await startTokenServer({
        ...names,
        accounts: all,
        publicRepositories,
        keyPath,
        certificatePath,
      });
      const token = { realm: tokenServer.url, ...names, rootcertbundle: certificatePath };
      return { config: { token }, tokenServer };
    }
  }
}

/** As skopeo and docker look for it. */
function makeClientCertificate(dir: string) {
  return makeCertificate(dir, 'certificates/client.cert', 'certificates/client.key');
}

/** A name that only the certificates know: who resolves it to this machine reaches the registry by it. */
export const REGISTRY_NAME = 'registry.test';

/**
 * Makes an RSA key and a certificate for this machine's addresses and {@link REGISTRY_NAME} that it signs itself.
 * @param keyName not beside the certificate: skopeo takes every key in a directory of certificates for a client's
 */
async function makeCertificate(dir: string, name: string, keyName = `${basename(name)}.key`) {
  const certificatePath = join(dir, name);
  const keyPath = join(dir, keyName);
  mkdirSync(dirname(certificatePath), { recursive: true });
  const names = `subjectAltName=IP:127.0.0.1,IP:::1,DNS:${REGISTRY_NAME}`;
  const subject = ['-subj', `/CN=${basename(name)}`, '-addext', names];
  const files = ['-keyout', keyPath, '-out', certificatePath];
  await run('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...subject, ...files]);
  return { keyPath, certificatePath };
}

/** Whether a registry answers at all: 200, or 401 where it wants to know who asks. */
function answers(
  url: URL,
  client: { readonly keyPath: string; readonly certificatePath: string } | null,
): Promise<boolean> {
  const identity = client && {
    cert: readFileSync(client.certificatePath),
    key: readFileSync(client.keyPath),
  };
  const request =
    url.protocol === 'https:'
      ? getHttps(url, { rejectUnauthorized: false, ...identity })
      : getHttp(url, { agent: false });
  return new Promise((resolve, reject) => {
    request.once('error', reject);
    request.once('response', (response) => {
      response.resume();
      resolve(response.statusCode === 200 || response.statusCode === 401);
    });
  });
}

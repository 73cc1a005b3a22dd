import { z } from 'zod';
import { isHelperName } from '../../oci/credential-helper.ts';
import { DEFAULT_TIMEOUTS, type RegistryTimeouts } from '../../oci/registry-connections.ts';
import { isAllowPattern } from './allow-list.ts';

const filePath = z.string().min(1, 'name a file');
const url = z.url({ protocol: /^https?$/, error: 'write a URL, for example https://mirror.example.com' });

/** Who asks: one way of these. */
const credentials = z
  .strictObject({
    username: z.string().min(1).optional(),
    password: z.string().optional(),
    passwordFile: filePath.optional(),
    identityToken: z.string().min(1).optional(),
    identityTokenFile: filePath.optional(),
    /** A Docker configuration, as `docker login` writes it. */
    dockerConfig: filePath.optional(),
    /** NAME of a program `docker-credential-NAME`. */
    helper: z.string().refine(isHelperName, 'write NAME of the program docker-credential-NAME').optional(),
  })
  .transform(({ username, ...ways }, context) => {
    const given = Object.entries(ways).filter(([, value]) => value !== undefined);
    const [way, value = ''] = given[0] ?? [];
    const isPassword = way === 'password' || way === 'passwordFile';
    if (given.length !== 1 || way === undefined || isPassword !== (username !== undefined)) {
      context.addIssue({
        code: 'custom',
        message:
          'give username with password or passwordFile, or one of identityToken, identityTokenFile, dockerConfig, helper',
      });
      return z.NEVER;
    }
    return { way: way as keyof typeof ways, value, username: username ?? '' };
  });

const tls = z.strictObject({
  /** PEM: certificates of authorities to trust besides the system's. */
  ca: filePath.optional(),
  /** PEM: our certificate and its key, for registries that ask for them. */
  certificate: filePath.optional(),
  key: filePath.optional(),
  /** Any certificate will do: whoever is in between can read and change everything. */
  insecureSkipVerify: z.boolean().default(false),
});

function timeout(name: keyof RegistryTimeouts) {
  return z.int().positive().default(DEFAULT_TIMEOUTS[name]);
}

/** What each of them bounds stands with {@link RegistryTimeouts}. */
const timeouts = z.strictObject({
  connectMs: timeout('connectMs'),
  headersMs: timeout('headersMs'),
  bodyMs: timeout('bodyMs'),
  progressWindowMs: timeout('progressWindowMs'),
  progressMinBytes: z.int().nonnegative().default(DEFAULT_TIMEOUTS.progressMinBytes),
});

const access = { credentials: credentials.optional(), tls: tls.optional() };

/** Host and optional port of a registry as in image names. */
const UPSTREAM_NAME = /^(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?$/;

export const upstreamSchema = z.strictObject({
  name: z.string().regex(UPSTREAM_NAME, 'write the registry as in image names, for example quay.io'),
  /** Where it answers, if not where its name says. */
  url: url.optional(),
  ...access,
  /** Other places that have its content, asked before it in this order. */
  mirrors: z.array(z.strictObject({ url, ...access })).optional(),
  timeouts: timeouts.optional(),
  /** Connections at once, for blobs; as many again for all else. */
  maxConnections: z.int().min(1).max(10_000).optional(),
});

/** Registries that may be asked for without being listed one by one: `*.example.com`, `registry.example.com:5000`. */
export const allowUpstreamsSchema = z
  .array(
    z.string().refine(isAllowPattern, 'write HOST, HOST:PORT or *.DOMAIN in lower case, and no IP address'),
  )
  .default([]);

export type UpstreamConfig = Readonly<z.output<typeof upstreamSchema>>;
export type AccessConfig = Pick<UpstreamConfig, 'credentials' | 'tls'>;
export type CredentialsConfig = NonNullable<UpstreamConfig['credentials']>;

/** For people's eyes. */
export function withoutUpstreamSecrets(upstream: UpstreamConfig): UpstreamConfig {
  const { mirrors } = upstream;
  return { ...hideIn(upstream), ...(mirrors === undefined ? {} : { mirrors: mirrors.map(hideIn) }) };
}

function hideIn<T extends AccessConfig>(access: T): T {
  const { credentials } = access;
  if (credentials?.way !== 'password' && credentials?.way !== 'identityToken') return access;
  return { ...access, credentials: { ...credentials, value: '(hidden)' } };
}

import { z } from 'zod';
import { baseUrl, hostAndPort } from '../../config/common-values.ts';
import { isLoopbackHost } from '../../oci/registry-url.ts';

const filePath = z.string().min(1, 'name a file');

/** Of this host's part in the mesh: what each is for stands in docs/mesh.md. */
const settings = z
  .strictObject({
    /** If not said: whether there is a secret, or certificates. */
    enabled: z.boolean().optional(),
    /** For other hosts. */
    listen: hostAndPort.default({ host: '0.0.0.0', port: 6011 }),
    /** HOST or HOST:PORT at which they reach it; by itself the address by which the first root is reached. */
    advertise: z
      .string()
      .regex(/^(\[[0-9a-fA-F:]+\]|[\w.-]+)(:\d{1,5})?$/, 'write HOST or HOST:PORT, for example 10.0.0.7:6011')
      .optional(),
    /** Hosts of one zone are near each other. */
    zone: z.string().max(128).default(''),
    /** Sent to other hosts at most. */
    uploadBytesPerSecond: z.int().min(1_000_000).default(125_000_000),
    /** Where trees are made; by itself the proxies. */
    roots: z
      .array(baseUrl)
      .min(1, 'name at least one root, or leave it out: then the proxies are the roots')
      .optional(),
    /** What all hosts of the mesh know, and nobody else. */
    secretFile: filePath.optional(),
    /** PEM files: who has a certificate of this authority is a host of the mesh. */
    tls: z.strictObject({ certificate: filePath, key: filePath, ca: filePath }).optional(),
    /** No encryption and no proof, on loopback. */
    insecure: z.boolean().default(false),
  })
  .superRefine(({ enabled, listen, secretFile, tls, insecure }, { addIssue }) => {
    const wrong = (key: string, message: string) => addIssue({ code: 'custom', path: [key], message });
    const means = [secretFile !== undefined, tls !== undefined, insecure].filter(Boolean).length;
    if (means > 1) wrong('secretFile', 'name one of secretFile, tls and insecure');
    if (enabled === true && means === 0) {
      wrong('enabled', 'name secretFile or tls, so that only your own hosts take part in the mesh');
    }
    if (insecure && !isLoopbackHost(listen.host)) {
      wrong('insecure', `is for tests on loopback, and ${listen.host} is not: name secretFile or tls`);
    }
  });

/** How hosts know that they talk to one of theirs. */
export type MeshSecurityFiles =
  | { readonly kind: 'shared-secret'; readonly file: string }
  | { readonly kind: 'certificates'; readonly certificate: string; readonly key: string; readonly ca: string }
  | { readonly kind: 'plain' };

/** Null: this host takes no part. */
export const meshSettings = settings
  .transform(({ enabled, secretFile, tls, insecure, advertise = null, roots = null, ...others }) => {
    const security = securityOf({ secretFile, tls });
    return (enabled ?? security.kind !== 'plain') ? { ...others, advertise, roots, security } : null;
  })
  .prefault({});

export type MeshConfig = NonNullable<z.output<typeof meshSettings>>;

function securityOf({
  secretFile,
  tls,
}: Pick<z.output<typeof settings>, 'secretFile' | 'tls'>): MeshSecurityFiles {
  if (secretFile !== undefined) return { kind: 'shared-secret', file: secretFile };
  return tls === undefined ? { kind: 'plain' } : { kind: 'certificates', ...tls };
}

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type ConnectionOptions, createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { OciError } from './errors.ts';

/** PEM files that decide how a registry is reached by https. */
export interface TlsFiles {
  /** Certificates of authorities to trust, besides those that the system trusts. */
  readonly ca?: string | undefined;
  /** Our own, which only the registry itself is shown: a certificate (with its chain) and its key. */
  readonly certificate?: string | undefined;
  readonly key?: string | undefined;
}

export interface RegistryTls {
  /** For the registry itself. */
  readonly own: SecureContext;
  /** For where it sends us: its token service and its storage. */
  readonly others: SecureContext;
  /** Takes any certificate of the registry itself for good: whoever is in between can read and change everything. */
  readonly skipVerify: boolean;
}

/** How a connection to the registry itself is made: what undici's `connect` and node:https take. */
export function ownTlsOptions(
  tls: RegistryTls | null,
): Pick<ConnectionOptions, 'secureContext' | 'rejectUnauthorized'> {
  return tls === null ? {} : { secureContext: tls.own, rejectUnauthorized: !tls.skipVerify };
}

/**
 * Reads them, once.
 * @throws OciError ERR_TLS_FILE that names the file
 */
export function readRegistryTls(
  files: TlsFiles,
  options: { readonly skipVerify?: boolean } = {},
): RegistryTls {
  const { ca, certificate, key } = files;
  const trusted = ca === undefined ? [...systemRoots()] : [...systemRoots(), ...readCertificates(ca)];
  const others = ca === undefined ? systemContext() : createSecureContext({ ca: trusted });
  const skipVerify = options.skipVerify ?? false;
  if (certificate === undefined && key === undefined) return { own: others, others, skipVerify };
  if (certificate === undefined || key === undefined) {
    throw new OciError('ERR_TLS_FILE', 'a client certificate and its key go together: give both files');
  }
  const chain = readCertificates(certificate).join('\n');
  try {
    const own = createSecureContext({ ca: trusted, cert: chain, key: readPem(key) });
    return { own, others, skipVerify };
  } catch (cause) {
    if (cause instanceof OciError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `${key} is not the key of the certificate ${certificate} (${reason}); give a PEM file without a passphrase`;
    throw new OciError('ERR_TLS_FILE', message, { cause });
  }
}

let roots: readonly string[] | null = null;
let rootsContext: SecureContext | null = null;

/** Hundreds of certificates take a while to read: once is enough. */
function systemContext(): SecureContext {
  rootsContext ??= createSecureContext({ ca: [...systemRoots()] });
  return rootsContext;
}

/** Those that Node.js brings and NODE_EXTRA_CA_CERTS adds, and those of the machine, where operators add theirs. */
function systemRoots(): readonly string[] {
  roots ??= [...new Set([...getCACertificates('default'), ...getCACertificates('system')])];
  return roots;
}

function readCertificates(path: string): string[] {
  const found = readPem(path).match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  try {
    for (const pem of found) new X509Certificate(pem);
  } catch (cause) {
    throw new OciError('ERR_TLS_FILE', `a certificate in ${path} cannot be read; it must be PEM`, { cause });
  }
  if (found.length > 0) return found;
  throw new OciError(
    'ERR_TLS_FILE',
    `there is no certificate in ${path}; it must be PEM (BEGIN CERTIFICATE)`,
  );
}

function readPem(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new OciError('ERR_TLS_FILE', `cannot read ${path} (${reason}); name a PEM file that is there`, {
      cause,
    });
  }
}

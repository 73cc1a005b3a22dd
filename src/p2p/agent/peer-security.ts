import { hkdfSync } from 'node:crypto';
import type { ConnectionOptions, TlsOptions } from 'node:tls';
import type { PeerSecurity } from './mesh.ts';
import { MeshError } from './mesh-error.ts';

export interface PeerTls {
  readonly server: TlsOptions;
  readonly client: Omit<ConnectionOptions, 'port' | 'path' | 'timeout'>;
}

const MIN_SECRET_BYTES = 16;
const IDENTITY = 'dadi-mesh';
/** The only one for which OpenSSL offers an external key in TLS 1.3; it renews keys for each connection by (EC)DHE. */
const PSK = {
  ciphers: 'TLS_AES_128_GCM_SHA256',
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
} as const;

/**
 * How hosts prove to each other that they belong to the mesh; null for plain HTTP.
 * @throws MeshError ERR_MESH_SECURITY for a secret that can be guessed
 */
export function peerTls(security: PeerSecurity): PeerTls | null {
  if (security.kind === 'plain') return null;
  return security.kind === 'shared-secret' ? pskTls(security.secret) : certificateTls(security);
}

function pskTls(secret: Buffer): PeerTls {
  if (secret.length < MIN_SECRET_BYTES) {
    throw new MeshError(
      'ERR_MESH_SECURITY',
      `the secret of the mesh has ${secret.length} bytes; give it at least ${MIN_SECRET_BYTES}, by chance`,
    );
  }
  const psk = Buffer.from(hkdfSync('sha256', secret, Buffer.alloc(0), 'dadi mesh, TLS between hosts', 32));
  return {
    server: { ...PSK, pskCallback: (_socket, identity) => (identity === IDENTITY ? psk : null) },
    client: {
      ...PSK,
      pskCallback: () => ({ psk, identity: IDENTITY }),
      // Only asked about a certificate: then the other side does not have the key.
      ca: [],
      checkServerIdentity: () => new Error('the peer shows a certificate where the key of the mesh is asked'),
    },
  };
}

function certificateTls({ certificate, key, ca }: PeerSecurity & { kind: 'certificates' }): PeerTls {
  const own = { cert: certificate, key, ca, minVersion: 'TLSv1.3' } as const;
  return {
    server: { ...own, requestCert: true, rejectUnauthorized: true },
    // The authority is the mesh's own: whoever has a certificate of it is a host of the mesh, by whatever name or
    // address it is reached. What it sends is verified in any case.
    client: { ...own, checkServerIdentity: () => undefined },
  };
}

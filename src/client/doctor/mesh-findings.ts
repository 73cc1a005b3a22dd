import { createSecureContext } from 'node:tls';
import { readRegistryTls } from '../../oci/registry-tls.ts';
import { peerTls } from '../../p2p/agent/peer-security.ts';
import type { MeshConfig } from '../node/mesh-config.ts';
import { readSecurity } from '../node/mesh-security.ts';
import type { NodeConfig } from '../node/node-config.ts';
import { probeProxy } from '../node/proxy-probe.ts';
import { type Finding, good, limited, missing } from './finding.ts';

const PROOFS = { 'shared-secret': 'a secret', certificates: 'certificates', plain: 'no proof' } as const;

/** What this host's part in the mesh needs; nothing of a host that takes none. */
export async function meshFindings({ mesh, tls: files }: NodeConfig): Promise<Finding[]> {
  if (mesh === null) return [];
  const tls = readRegistryTls(files, { skipVerify: files.insecureSkipVerify });
  const roots = (mesh.roots ?? []).map(async (url) => {
    const name = `root ${url.host}`;
    const problem = await probeProxy(url, tls);
    if (problem === null) return good(name, 'it answers', 'hosts find each other there');
    return limited(
      name,
      problem,
      'other roots take over its trees; without any root, chunks come from the proxies',
      'start it, or correct its address (mesh.roots)',
    );
  });
  return [membership(mesh), ...(await Promise.all(roots))];
}

function membership({ security, listen }: MeshConfig): Finding {
  const name = 'mesh';
  try {
    const tls = peerTls(readSecurity(security));
    // As when the daemon listens: here files show that are no certificate, or not of one another.
    if (tls !== null) createSecureContext(tls.server);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return missing(name, reason, 'the daemon does not start', 'mesh.secretFile (--mesh-secret), or mesh.tls');
  }
  const found = `${PROOFS[security.kind]}, and ${listen.host}:${listen.port} for other hosts`;
  return good(name, found, 'other hosts are asked for chunks before the proxies, and may ask this one');
}

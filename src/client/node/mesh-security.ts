import { readFileSync } from 'node:fs';
import type { PeerSecurity } from '../../p2p/agent/mesh.ts';
import { ClientError } from '../errors.ts';
import type { MeshSecurityFiles } from './mesh-config.ts';

/** What is in the files by which hosts know each other. @throws ClientError ERR_MESH_FILE */
export function readSecurity(files: MeshSecurityFiles): PeerSecurity {
  switch (files.kind) {
    case 'plain':
      return { kind: 'plain' };
    case 'shared-secret':
      return {
        kind: 'shared-secret',
        secret: Buffer.from(read(files.file).toString('latin1').trim(), 'latin1'),
      };
    case 'certificates': {
      const { certificate, key, ca } = files;
      const text = (path: string) => read(path).toString('utf8');
      return { kind: 'certificates', certificate: text(certificate), key: text(key), ca: text(ca) };
    }
  }
}

function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ClientError('ERR_MESH_FILE', `the mesh needs ${path}, which cannot be read: ${reason}`, {
      cause,
    });
  }
}

import { join } from 'node:path';
import { MeshRoot } from '../../p2p/root/mesh-root.ts';
import { RootKey } from '../../p2p/root/root-key.ts';
import type { RootParts } from '../../p2p/root/root-routes.ts';
import type { ProxyConfig } from '../config.ts';
import { BlobRights } from './blob-rights.ts';

/**
 * The root of the mesh, as the configuration wants it; null if it does not.
 * @throws ConfigError if its key cannot be read or written
 */
export async function openMesh(
  { mesh: { enabled, ...settings }, dataDirectory }: ProxyConfig,
  parts: ConstructorParameters<typeof BlobRights>[0],
): Promise<RootParts | null> {
  if (!enabled) return null;
  const key = await RootKey.open(join(dataDirectory, 'mesh-key.pem'));
  return { root: new MeshRoot({ settings, key, now: Date.now }), rights: new BlobRights(parts) };
}

import type { Logger } from 'pino';
import type { RegistryTls } from '../../oci/registry-tls.ts';
import type { Mesh } from '../../p2p/agent/mesh.ts';
import { MeshAgent } from '../../p2p/agent/mesh-agent.ts';
import type { ChunkCache } from '../chunks/chunk-cache.ts';
import { PeerChunks } from '../chunks/peer-chunks.ts';
import { JoinAuthorization } from '../sources/join-authorization.ts';
import type { SourceCredentials } from '../sources/source-credentials.ts';
import type { MeshConfig } from './mesh-config.ts';
import { readSecurity } from './mesh-security.ts';
import { ownAddress } from './own-address.ts';

export interface MeshSurroundings {
  readonly proxies: readonly URL[];
  readonly tls: RegistryTls;
  readonly credentials: SourceCredentials;
  readonly cache: ChunkCache;
  readonly readTimeoutMs: number;
  readonly logger: Logger;
}

/** This host's part in the mesh, and what it takes down with it. */
export interface RunningMesh {
  readonly mesh: Mesh;
  close(): Promise<void>;
}

/**
 * Starts this host's part in the mesh: asks no root before something is opened.
 * @throws ClientError ERR_MESH_FILE; what `MeshAgent.start` throws
 */
export async function startMesh(config: MeshConfig, around: MeshSurroundings): Promise<RunningMesh> {
  const { proxies, tls, credentials, cache, readTimeoutMs, logger } = around;
  const { security: files, advertise, roots: named, ...settings } = config;
  const roots = named ?? proxies;
  const security = readSecurity(files);
  const onNoWay = (error: unknown) =>
    logger.warn({ err: error, root: roots[0]!.host }, 'no way to the first root: mesh.advertise is a guess');
  const holder = new PeerChunks({ cache, readTimeoutMs });
  const joins = new JoinAuthorization(credentials, tls);
  const mesh = await MeshAgent.start({
    ...settings,
    ...{ roots, security, holder, logger, rootTls: tls, authorize: joins.authorize },
    advertise: advertise ?? (await ownAddress(roots[0]!, onNoWay)),
  });
  return {
    mesh,
    close: async () => {
      await mesh.close();
      await joins.close();
      await holder.close();
    },
  };
}

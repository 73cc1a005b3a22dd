import { release } from 'node:os';
import { readRegistryTls } from '../../oci/registry-tls.ts';
import { inspectHost } from '../attach/choose-method.ts';
import type { NodeConfig } from '../node/node-config.ts';
import { probeProxy } from '../node/proxy-probe.ts';
import { cacheFindings } from './cache-findings.ts';
import { containerdFindings } from './containerd-findings.ts';
import { type Finding, good, limited } from './finding.ts';
import { kernelFindings } from './kernel-findings.ts';
import { meshFindings } from './mesh-findings.ts';
import { rightsFindings } from './rights-findings.ts';

export interface DoctorOptions {
  /** Null where no proxy was named. */
  readonly config: NodeConfig;
  readonly containerdConfig: string;
}

/** Looks at everything about this host that matters to the node daemon; changes nothing. */
export async function examineHost({ config, containerdConfig }: DoctorOptions): Promise<Finding[]> {
  const { snapshotter, cache, stateDirectory } = config;
  const found = await Promise.all([
    rightsFindings(),
    inspectHost().then((host) => kernelFindings(release(), host)),
    snapshotter === null ? [] : containerdFindings(containerdConfig, snapshotter.socket),
    proxyFindings(config),
    meshFindings(config),
    cacheFindings({ cacheDirectory: cache.directory, minFreeBytes: cache.minFreeBytes, stateDirectory }),
  ]);
  return found.flat();
}

async function proxyFindings({ proxies, tls: files }: NodeConfig): Promise<Finding[]> {
  const tls = readRegistryTls(files, { skipVerify: files.insecureSkipVerify });
  return Promise.all(
    proxies.map(async (url) => {
      const name = `proxy ${url.host}`;
      const problem = await probeProxy(url, tls);
      if (problem === null) return good(name, 'it answers', 'images are found and read there');
      return limited(
        name,
        problem,
        'images come from other proxies, or are downloaded whole; mounted ones read what is cached',
        'start it, or correct its address (proxies in the configuration, --proxy)',
      );
    }),
  );
}

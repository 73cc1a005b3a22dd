import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, platformsIndex, startFilledRegistry } from './support/client-images.ts';
import { Containerd, writeHosts } from './support/containerd.ts';
import { ContainersTools, mirrored } from './support/containers-tools.ts';
import { Dockerd } from './support/dockerd.ts';
import { freePort } from './support/processes.ts';
import {
  copied,
  copyWithSkopeo,
  pulled,
  pullWithBuildah,
  pullWithContainerd,
  pullWithDocker,
  pullWithPodman,
} from './support/pulled-images.ts';
import type { Registry, RegistryOptions } from './support/registry.ts';
import { RegistryLog } from './support/registry-log.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability(
  ...(['root', 'registry', 'htpasswd', 'openssl'] as const),
  ...(['docker', 'containerd', 'podman', 'buildah', 'skopeo'] as const),
);

const HOST = 'reg.example';
const IMAGE = clientImage(51);
const INDEX = platformsIndex(52);

const MODES: readonly (readonly [name: string, options: Omit<RegistryOptions, 'dir'>])[] = [
  ['without a password', {}],
  ['with a password', { auth: 'basic' }],
  ['with tokens', { auth: 'token' }],
  ['with a password, over TLS', { auth: 'basic', tls: true }],
];

describe.skipIf(!canRun).each(MODES)('in front of a registry %s', (_mode, options) => {
  const trusted = getCACertificates('default');
  let scratch: string;
  let registry: Registry;
  let proxy: TestProxy;
  let log: RegistryLog;
  let tools: ContainersTools;
  let containerd: Containerd;
  let docker: Dockerd;

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dadi-r-'));
    const images = { 'lib/image:1': IMAGE, 'lib/index:1': INDEX };
    registry = await startFilledRegistry({ dir: join(scratch, 'registry'), ...options }, images);
    const { baseUrl, credentials, certificatesDir } = registry;
    if (certificatesDir !== null) {
      setDefaultCACertificates([...trusted, readFileSync(join(certificatesDir, 'ca.crt'), 'utf8')]);
    }
    const upstream = { url: baseUrl.href, ...(credentials === null ? {} : { credentials }) };
    proxy = await TestProxy.start({
      upstreams: ['docker.io', HOST].map((name) => ({ name, ...upstream })),
      tagTtlMs: 0,
    });
    log = new RegistryLog(registry);
    tools = new ContainersTools(join(scratch, 'tools'), mirrored(HOST, `${proxy.host}/${HOST}`));
    containerd = await Containerd.start(join(scratch, 'c'));
    // Nobody behind it: all comes from the proxy.
    writeHosts(join(scratch, 'hosts'), HOST, proxy.host, new URL(`http://127.0.0.1:${await freePort()}`));
    docker = await Dockerd.start(join(scratch, 'd'), { 'registry-mirrors': [proxy.url] });
  });

  afterAll(async () => {
    await docker?.remove();
    await containerd?.stop();
    await tools?.remove();
    setDefaultCACertificates(trusted);
    await proxy?.remove();
    await registry?.stop();
    rmSync(scratch, { recursive: true });
  });

  test('all clients pull through the proxy, which gets each blob once and knows the password for them', async () => {
    const image = pulled(IMAGE);
    expect(await pullWithDocker(docker, 'lib/image:1')).toEqual(image);
    const hosts = join(scratch, 'hosts');
    expect(await pullWithContainerd(containerd, hosts, `${HOST}/lib/image:1`, 'tag')).toEqual(image);
    expect(await pullWithPodman(tools, `${HOST}/lib/image:1`)).toEqual(image);
    expect(await pullWithBuildah(tools, `${proxy.host}/${HOST}/lib/image:1`)).toEqual(image);
    expect(await copyWithSkopeo(tools, `${proxy.host}/${HOST}/lib/index:1`)).toEqual(copied(INDEX));
    const counts = Object.values(await log.blobDownloads());
    expect(counts).toEqual([IMAGE, ...INDEX.manifests].flatMap(({ blobs }) => blobs.map(() => 1)));
  });
});

import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, startFilledRegistry } from './support/client-images.ts';
import { Containerd } from './support/containerd.ts';
import { ContainersTools } from './support/containers-tools.ts';
import { Dockerd } from './support/dockerd.ts';
import { FaultyRelay } from './support/faulty-relay.ts';
import type { MadeManifest } from './support/made-image.ts';
import { run } from './support/processes.ts';
import {
  copied,
  copyWithSkopeo,
  pulled,
  pullWithContainerd,
  pullWithDocker,
  pullWithPodman,
} from './support/pulled-images.ts';
import type { Registry } from './support/registry.ts';
import { RequestRecorder } from './support/request-recorder.ts';
import { TestMirror } from './support/test-mirror.ts';
import { bytesOf, TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('root', 'containerd', 'docker', 'podman', 'skopeo', 'registry');
const DADI = join(import.meta.dirname, '../src/cli/main.ts');
const IMAGES = {
  'library/first:1': clientImage(71),
  'library/second:1': clientImage(72, { form: 'docker' }),
  'library/large:1': clientImage(73, { randomBytes: 6_000_000 }),
};

let scratch: string;
let registry: Registry;
let proxy: TestProxy;
let relay: FaultyRelay;
let recorder: RequestRecorder;
let mirror: TestMirror;
let containerd: Containerd;
let daemon: Dockerd;
let tools: ContainersTools;

/** What `dadi setup` writes, in a host's directory of its own. */
async function setUp(runtime: string, ...more: readonly string[]): Promise<string> {
  const root = join(scratch, `root-${runtime}`);
  mkdirSync(root);
  const flags = ['--mirror', mirror.server.url.origin, '--root', root];
  await run(process.execPath, [DADI, 'setup', runtime, ...flags, ...more]);
  return root;
}

/** Waits until all blobs of an image are in the node's chunk cache. */
async function kept(name: string, { blobs }: MadeManifest): Promise<void> {
  for (const bytes of blobs) {
    const path = `/v2/${name.split(':')[0]}/blobs/${digestOf(bytes)}`;
    await vi.waitFor(
      async () => {
        const before = mirror.server.stats.bytesRead;
        await bytesOf(await mirror.fetch(path, { headers: { range: 'bytes=0-0' } }));
        expect(mirror.server.stats.bytesRead).toBeGreaterThan(before);
      },
      { timeout: 60_000, interval: 50 },
    );
  }
}

/** Blobs, or parts of them, that the proxy was asked for since the last time. Rights are asked for by HEAD. */
function downloads(): number {
  return recorder.take().filter(({ method, path }) => method === 'GET' && path.includes('/blobs/')).length;
}

const pulls = {
  containerd: (name: keyof typeof IMAGES) => {
    const hosts = join(scratch, 'root-containerd/etc/containerd/certs.d');
    return pullWithContainerd(containerd, hosts, `docker.io/${name}`, name.replace(/\W/g, '-'));
  },
  docker: (name: keyof typeof IMAGES) => pullWithDocker(daemon, name.replace('library/', '')),
  podman: (name: keyof typeof IMAGES) => pullWithPodman(tools, `docker.io/${name}`),
} as const;

describe.skipIf(!canRun)("container engines that dadi setup has pointed at the node's mirror", () => {
  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dadi-m-'));
    registry = await startFilledRegistry({ dir: join(scratch, 'registry') }, IMAGES);
    proxy = await TestProxy.start({
      upstreams: [{ name: 'docker.io', url: registry.baseUrl.href }],
      conversion: { enabled: false },
    });
    relay = await FaultyRelay.start(proxy.url);
    recorder = new RequestRecorder(proxy.url);
    mirror = await TestMirror.start([relay.url]);
    const roots = { docker: await setUp('docker'), podman: await setUp('podman', '--registry', 'docker.io') };
    await setUp('containerd');
    const settings = JSON.parse(readFileSync(join(roots.docker, 'etc/docker/daemon.json'), 'utf8')) as object;
    const dropIn = join(roots.podman, 'etc/containers/registries.conf.d/90-dadi.conf');
    tools = new ContainersTools(join(scratch, 'tools'), readFileSync(dropIn, 'utf8'));
    [containerd, daemon] = await Promise.all([
      Containerd.start(join(scratch, 'c')),
      Dockerd.start(join(scratch, 'd'), settings),
    ]);
  });

  afterAll(async () => {
    await daemon?.remove();
    await containerd?.stop();
    await tools?.remove();
    await mirror?.remove();
    recorder?.stop();
    await relay?.stop();
    await proxy?.remove();
    await registry?.stop();
    rmSync(scratch, { recursive: true });
  });

  beforeEach(() => {
    relay.fault = () => null;
  });

  test.each(['library/first:1', 'library/second:1'] as const)(
    'what one of them pulled costs the next ones no blob bytes from the proxy: %s',
    async (name) => {
      const expected = pulled(IMAGES[name]);
      expect(await pulls.podman(name)).toEqual(expected);
      expect(downloads()).toBeGreaterThan(0);
      await kept(name, IMAGES[name]);
      downloads();
      expect(await pulls.containerd(name)).toEqual(expected);
      expect(await pulls.docker(name)).toEqual(expected);
      expect(await copyWithSkopeo(tools, `${mirror.host}/${name}`)).toEqual(copied(IMAGES[name]));
      expect(downloads()).toBe(0);
      expect(mirror.server.stats.bytesFetched).toBe(0);
    },
  );

  test('a proxy that breaks every blob off is no reason for a pull to fail', async () => {
    const name = 'library/large:1';
    let cuts = 0;
    relay.fault = (path) =>
      path.includes('/blobs/') && ++cuts % 2 === 1 ? { kind: 'cut', afterBytes: 2_000_000 } : null;
    expect(await pulls.containerd(name)).toEqual(pulled(IMAGES[name]));
    expect(cuts).toBeGreaterThan(1);
  });

  test('without any proxy, what the host has is pulled by digest', async () => {
    const made = IMAGES['library/first:1'];
    await relay.stop();
    try {
      const reference = `${mirror.host}/library/first@${made.descriptor.digest}`;
      expect(await copyWithSkopeo(tools, reference)).toEqual(copied(made));
    } finally {
      await relay.resume();
    }
  });
});

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, startFilledRegistry } from './support/client-images.ts';
import { Containerd, writeHosts } from './support/containerd.ts';
import { ContainersTools, mirrored } from './support/containers-tools.ts';
import { freePort } from './support/processes.ts';
import {
  copied,
  copyWithSkopeo,
  pulled,
  pullWithBuildah,
  pullWithContainerd,
  pullWithPodman,
} from './support/pulled-images.ts';
import { RegistryLog } from './support/registry-log.ts';
import { RequestRecorder } from './support/request-recorder.ts';
import { TcpRelay } from './support/tcp-relay.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability(
  ...(['root', 'registry', 'openssl', 'containerd', 'podman', 'buildah', 'skopeo'] as const),
);

const HOST = 'reg.example';
const IMAGE = clientImage(71, { randomBytes: 6_000_000 });
const CLIENTS = 8;

test.skipIf(!canRun)(
  'eight clients that pull the same cold image at once get it whole, and the registry sends each blob once',
  async () => {
    const scratch = mkdtempSync(join(tmpdir(), 'dadi-t-'));
    const images = { 'lib/image:1': IMAGE };
    const registry = await startFilledRegistry({ dir: join(scratch, 'registry'), auth: 'token' }, images);
    const relay = await TcpRelay.start(registry.host);
    const { credentials } = registry;
    const proxy = await TestProxy.start({
      upstreams: [{ name: HOST, url: `http://${relay.host}`, credentials }],
      tagTtlMs: 0,
    });
    const containerd = await Containerd.start(join(scratch, 'c'));
    const tools = ['a', 'b', 'c', 'd'].map(
      (name) => new ContainersTools(join(scratch, name), mirrored(HOST, proxy.host)),
    );
    const recorder = new RequestRecorder(proxy.url);
    try {
      const [a, b, c, d] = tools as [ContainersTools, ContainersTools, ContainersTools, ContainersTools];
      const hosts = join(scratch, 'hosts');
      // Nobody behind it: all comes from the proxy.
      writeHosts(hosts, HOST, proxy.host, new URL(`http://127.0.0.1:${await freePort()}`));
      const name = 'lib/image:1';
      const log = new RegistryLog(registry);
      // The download of the large layer goes on only when all have asked for it.
      relay.stallAfter(2_000_000);
      const pulls = Promise.all([
        ...[1, 2, 3].map((at) => pullWithContainerd(containerd, hosts, `${HOST}/${name}`, `n${at}`)),
        pullWithPodman(a, `${HOST}/${name}`),
        pullWithPodman(b, `${HOST}/${name}`),
        pullWithBuildah(c, `${proxy.host}/${name}`),
      ]);
      const copies = Promise.all([c, d].map((each) => copyWithSkopeo(each, `${proxy.host}/${name}`)));
      const layer = digestOf(IMAGE.blobs[1]!);
      const all = Promise.all([pulls, copies]);
      await Promise.race([
        // That nobody asks for it any more is for those who pull to tell.
        all,
        vi.waitFor(
          () => expect(recorder.requests.filter(({ path }) => path.endsWith(layer))).toHaveLength(CLIENTS),
          { timeout: 50_000 },
        ),
      ]);
      relay.mend();
      const [haves, files] = await all;
      expect(haves).toEqual(haves.map(() => pulled(IMAGE)));
      expect(files).toEqual(files.map(() => copied(IMAGE)));
      expect(haves.length + files.length).toBe(CLIENTS);
      const once = IMAGE.blobs.map((blob) => [digestOf(blob), 1]);
      expect(await log.blobDownloads()).toEqual(Object.fromEntries(once));
    } finally {
      relay.mend();
      recorder.stop();
      for (const each of tools) await each.remove();
      await containerd.stop();
      await proxy.remove();
      await relay.stop();
      await registry.stop();
      rmSync(scratch, { recursive: true });
    }
  },
);

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, platformsIndex, startFilledRegistry } from './support/client-images.ts';
import { Dockerd } from './support/dockerd.ts';
import { pulled, pullWithDocker } from './support/pulled-images.ts';
import type { Registry } from './support/registry.ts';
import { RegistryLog } from './support/registry-log.ts';
import { RequestRecorder } from './support/request-recorder.ts';
import { TcpRelay } from './support/tcp-relay.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('root', 'docker', 'registry', 'htpasswd');

const LARGE_BYTES = 6_000_000;
const IMAGES = {
  'library/plain:1': clientImage(11),
  'org/docker:1': clientImage(12, { form: 'docker' }),
  'org/platforms:1': platformsIndex(13),
  'org/large:1': clientImage(15, { randomBytes: LARGE_BYTES }),
};

let scratch: string;
let registry: Registry;
let proxy: TestProxy;
let relay: TcpRelay;
let log: RegistryLog;
let recorder: RequestRecorder;
const daemons: Dockerd[] = [];

async function freshDaemon(): Promise<Dockerd> {
  const mirror = { 'registry-mirrors': [`http://${relay.host}`] };
  const daemon = await Dockerd.start(join(scratch, `d${daemons.length}`), mirror);
  daemons.push(daemon);
  return daemon;
}

describe.skipIf(!canRun)(
  'Docker with the proxy among its registry-mirrors, in front of a registry that wants a password',
  () => {
    let first: Dockerd;
    let second: Dockerd;

    beforeAll(async () => {
      scratch = mkdtempSync(join(tmpdir(), 'dadi-d-'));
      registry = await startFilledRegistry({ dir: join(scratch, 'registry'), auth: 'basic' }, IMAGES);
      const { baseUrl, credentials } = registry;
      proxy = await TestProxy.start({
        upstreams: [{ name: 'docker.io', url: baseUrl.href, credentials }],
        tagTtlMs: 0,
      });
      relay = await TcpRelay.start(proxy.host);
      log = new RegistryLog(registry);
      recorder = new RequestRecorder(proxy.url);
      [first, second] = [await freshDaemon(), await freshDaemon()];
    });

    afterAll(async () => {
      for (const daemon of daemons) await daemon.remove();
      recorder?.stop();
      await relay?.stop();
      await proxy?.remove();
      await registry?.stop();
      rmSync(scratch, { recursive: true });
    });

    test('pulls by tag and by digest, and has the digest and the content that the registry has', async () => {
      const made = IMAGES['library/plain:1'];
      const { digest } = made.descriptor;
      expect(await pullWithDocker(first, 'plain:1')).toEqual(pulled(made));
      expect(await pullWithDocker(second, `plain@${digest}`)).toEqual(pulled(made));
    });

    test("pulls images of Docker's own form, and of an index the platform that is asked for", async () => {
      expect(await pullWithDocker(first, 'org/docker:1')).toEqual(pulled(IMAGES['org/docker:1']));
      const index = IMAGES['org/platforms:1'];
      const said = await first.docker('pull', '--platform', 'linux/arm64', 'org/platforms:1');
      expect(said).toContain(`Digest: ${index.descriptor.digest}`);
      const [image] = JSON.parse(await first.docker('image', 'inspect', 'org/platforms:1'));
      expect([image.Id, image.Architecture]).toEqual([pulled(index.images.arm64).id, 'arm64']);
    });

    test('a second daemon gets all from the proxy: the registry sends each blob once', async () => {
      const made = IMAGES['org/docker:1'];
      expect(await pullWithDocker(second, 'org/docker:1')).toEqual(pulled(made));
      const downloads = await log.blobDownloads();
      for (const blob of made.blobs) expect(downloads[digestOf(blob)]).toBe(1);
    });

    test('a pull that is interrupted in the middle of a layer goes on from there, and the registry sends it once', async () => {
      const made = IMAGES['org/large:1'];
      recorder.take();
      relay.resetAfter(LARGE_BYTES / 2);
      expect(await pullWithDocker(first, 'org/large:1')).toEqual(pulled(made));
      expect(relay.troublesLeft).toBe(0);
      const asked = recorder.take().filter(({ path }) => path.endsWith(digestOf(made.blobs[1]!)));
      expect(asked.map(({ headers }) => headers.range)).toEqual([
        undefined,
        expect.stringMatching(/^bytes=\d{6,}-$/),
      ]);
      expect((await log.blobDownloads())[digestOf(made.blobs[1]!)]).toBe(1);
    });

    test('the shape of its requests: a ping, a HEAD of the tag, a GET by digest, the blobs; no ns, no credentials', async () => {
      const made = IMAGES['library/plain:1'];
      const third = await freshDaemon();
      recorder.take();
      await third.docker('pull', 'plain:1');
      const requests = recorder.take();
      const base = '/v2/library/plain';
      const { digest } = made.descriptor;
      expect(requests.slice(0, 3).map(({ method, path }) => `${method} ${path}`)).toEqual([
        'GET /v2/',
        `HEAD ${base}/manifests/1`,
        `GET ${base}/manifests/${digest}`,
      ]);
      const rest = requests.slice(3).map(({ method, path }) => `${method} ${path}`);
      expect(rest.toSorted()).toEqual(
        made.blobs.map((blob) => `GET ${base}/blobs/${digestOf(blob)}`).toSorted(),
      );
      for (const { query, headers } of requests) {
        expect(query).toBe('');
        expect(headers.authorization).toBeUndefined();
        expect(headers['user-agent']).toMatch(/^docker\/20\.10/);
      }
      const accepted = requests[1]?.headers.accept?.split(/,\s*/);
      expect(accepted).toEqual(expect.arrayContaining([made.descriptor.mediaType]));
    });
  },
);

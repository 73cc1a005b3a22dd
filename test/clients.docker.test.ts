import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { requireCapability } from './support/capabilities.ts';
import {
  clientImage,
  platformsIndex,
  RANDOM_FILE,
  randomFileOf,
  startFilledRegistry,
} from './support/client-images.ts';
import { Dockerd } from './support/dockerd.ts';
import type { MadeManifest } from './support/made-image.ts';
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

    /** What the daemon has is what was made: its configuration, its layers, and a file in them. */
    async function expectPulled(
      daemon: Dockerd,
      name: string,
      made: MadeManifest,
      seed: number,
      length?: number,
    ) {
      const [image] = JSON.parse(await daemon.docker('image', 'inspect', name));
      const [config] = made.blobs;
      expect(image.Id).toBe(digestOf(config!));
      expect(image.RootFS.Layers).toEqual(JSON.parse(config!.toString()).rootfs.diff_ids);
      const container = await daemon.docker('create', '--network', 'none', name);
      const copy = join(scratch, 'copied');
      await daemon.docker('cp', `${container}:/${RANDOM_FILE}`, copy);
      expect(readFileSync(copy).equals(randomFileOf(seed, length))).toBe(true);
      await daemon.docker('rm', container);
    }

    test('pulls by tag and by digest, and has the digest and the content that the registry has', async () => {
      const made = IMAGES['library/plain:1'];
      const { digest } = made.descriptor;
      expect(await first.docker('pull', 'plain:1')).toContain(`Digest: ${digest}`);
      await expectPulled(first, 'plain:1', made, 11);
      expect(await second.docker('pull', `plain@${digest}`)).toContain(`Digest: ${digest}`);
      await expectPulled(second, `plain@${digest}`, made, 11);
      const [image] = JSON.parse(await first.docker('image', 'inspect', 'plain:1'));
      expect(image.RepoDigests).toEqual([`plain@${digest}`]);
    });

    test("pulls images of Docker's own form, and of an index the platform of its machine", async () => {
      const docker = IMAGES['org/docker:1'];
      expect(await first.docker('pull', 'org/docker:1')).toContain(`Digest: ${docker.descriptor.digest}`);
      await expectPulled(first, 'org/docker:1', docker, 12);
      const index = IMAGES['org/platforms:1'];
      const pull = ['pull', '--platform', 'linux/arm64', 'org/platforms:1'];
      expect(await first.docker(...pull)).toContain(`Digest: ${index.descriptor.digest}`);
      await expectPulled(first, 'org/platforms:1', index.manifests[1]!, 14);
    });

    test('a second daemon gets all from the proxy: the registry sends each blob once', async () => {
      const made = IMAGES['org/docker:1'];
      await second.docker('pull', 'org/docker:1');
      await expectPulled(second, 'org/docker:1', made, 12);
      const downloads = await log.blobDownloads();
      for (const blob of made.blobs) expect(downloads[digestOf(blob)]).toBe(1);
    });

    test('a pull that is interrupted in the middle of a layer goes on from there, and the registry sends it once', async () => {
      const made = IMAGES['org/large:1'];
      recorder.take();
      relay.resetAfter(LARGE_BYTES / 2);
      expect(await first.docker('pull', 'org/large:1')).toContain(`Digest: ${made.descriptor.digest}`);
      await expectPulled(first, 'org/large:1', made, 15, LARGE_BYTES);
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

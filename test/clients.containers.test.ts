import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { DOCKER_MANIFEST_LIST } from '../src/oci/media-types.ts';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, orasArtifact, platformsIndex, startFilledRegistry } from './support/client-images.ts';
import { ContainersTools, mirrored } from './support/containers-tools.ts';
import { makeIndex } from './support/made-image.ts';
import { freePort } from './support/processes.ts';
import { copied, copyWithSkopeo, pulled, pullWithBuildah, pullWithPodman } from './support/pulled-images.ts';
import type { Registry } from './support/registry.ts';
import { RegistryLog } from './support/registry-log.ts';
import { RequestRecorder } from './support/request-recorder.ts';
import { TcpRelay } from './support/tcp-relay.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('root', 'podman', 'buildah', 'skopeo', 'registry', 'openssl');

/** The registry as images are named after it. It is no host of any network. */
const HOST = 'reg.example';
const MIB = 1024 * 1024;

const PLATFORMS = platformsIndex(35);
const RUNNABLE = {
  'lib/oci:1': clientImage(31),
  'lib/docker:1': clientImage(32, { form: 'docker' }),
  'lib/zstd:1': clientImage(33, { form: 'oci-zstd' }),
} as const;
const IMAGES = {
  ...RUNNABLE,
  'lib/platforms:1': PLATFORMS,
  'lib/list:1': platformsIndex(37, { form: 'docker' }),
  'lib/artifact:1': orasArtifact(),
  'lib/nested:1': makeIndex([{ made: PLATFORMS }, { made: orasArtifact() }]),
  'library/hub:1': clientImage(39, { form: 'docker' }),
  'lib/shape:1': clientImage(40),
  'lib/large:1': clientImage(41, { randomBytes: 8 * MIB }),
} as const;
const NAMES = Object.keys(RUNNABLE) as (keyof typeof RUNNABLE)[];

let scratch: string;
let registry: Registry;
let proxy: TestProxy;
let relay: TcpRelay;
let log: RegistryLog;
let recorder: RequestRecorder;
let tools: ContainersTools;

/** The same by its digest. */
function byDigest(name: keyof typeof IMAGES): string {
  return `${name.split(':')[0]}@${IMAGES[name].descriptor.digest}`;
}

describe.skipIf(!canRun)('podman, buildah and skopeo, in front of a registry that wants tokens', () => {
  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dadi-p-'));
    registry = await startFilledRegistry({ dir: join(scratch, 'registry'), auth: 'token' }, IMAGES);
    const { baseUrl, credentials } = registry;
    const upstreams = ['docker.io', HOST].map((name) => ({ name, url: baseUrl.href, credentials }));
    proxy = await TestProxy.start({ upstreams, tagTtlMs: 0, conversion: { enabled: false } });
    relay = await TcpRelay.start(proxy.host);
    log = new RegistryLog(registry);
    recorder = new RequestRecorder(proxy.url);
    const mirrors = mirrored('docker.io', proxy.host) + mirrored(HOST, `${relay.host}/${HOST}`);
    tools = new ContainersTools(join(scratch, 'tools'), mirrors);
  });

  afterAll(async () => {
    await tools?.remove();
    recorder?.stop();
    await relay?.stop();
    await proxy?.remove();
    await registry?.stop();
    rmSync(scratch, { recursive: true });
  });

  test.each([...NAMES, 'lib/platforms:1', 'lib/list:1', 'lib/artifact:1'] as const)(
    'skopeo copies %s by its prefix, by tag and by digest, byte for byte',
    async (name) => {
      const prefix = `${proxy.host}/${HOST}`;
      expect(await copyWithSkopeo(tools, `${prefix}/${name}`)).toEqual(copied(IMAGES[name]));
      expect(await copyWithSkopeo(tools, `${prefix}/${byDigest(name)}`)).toEqual(copied(IMAGES[name]));
    },
  );

  test('an index within an index comes byte for byte, and so does what is in it', async () => {
    const made = IMAGES['lib/nested:1'];
    const prefix = `${proxy.host}/${HOST}`;
    for (const name of ['lib/nested:1', byDigest('lib/nested:1')]) {
      const raw = ['inspect', '--raw', '--tls-verify=false', `docker://${prefix}/${name}`];
      expect(await tools.skopeo(...raw)).toBe(made.bytes.toString());
    }
    for (const child of made.manifests) {
      const name = `${prefix}/lib/nested@${child.descriptor.digest}`;
      expect(await copyWithSkopeo(tools, name)).toEqual(copied(child));
    }
  });

  test.each(NAMES)('podman pulls %s by its mirror, by tag and by digest', async (name) => {
    expect(await pullWithPodman(tools, `${HOST}/${name}`)).toEqual(pulled(IMAGES[name]));
    expect(await pullWithPodman(tools, `${HOST}/${byDigest(name)}`)).toEqual(pulled(IMAGES[name]));
  });

  test('podman pulls the platform of an index that is asked for', async () => {
    const image = await pullWithPodman(tools, `${HOST}/lib/platforms:1`, '--arch', 'arm64');
    const { id, diffIds, content } = pulled(PLATFORMS.images.arm64);
    expect(image).toMatchObject({ id, diffIds, content });
  });

  test("podman pulls Docker Hub's own images by the mirror's default upstream", async () => {
    expect(await pullWithPodman(tools, 'docker.io/hub:1')).toEqual(pulled(IMAGES['library/hub:1']));
  });

  test("of Docker Hub's own images a prefix needs no library/", async () => {
    const files = await copyWithSkopeo(tools, `${proxy.host}/docker.io/hub:1`);
    expect(files).toEqual(copied(IMAGES['library/hub:1']));
  });

  test.each(NAMES)('buildah pulls %s by its prefix, by tag and by digest', async (name) => {
    const prefix = `${proxy.host}/${HOST}`;
    expect(await pullWithBuildah(tools, `${prefix}/${name}`)).toEqual(pulled(IMAGES[name]));
    expect(await pullWithBuildah(tools, `${prefix}/${byDigest(name)}`)).toEqual(pulled(IMAGES[name]));
  });

  test.each(['podman', 'skopeo'] as const)(
    'the shape of the requests of %s: a ping, a GET of the tag, the blobs; no HEAD, no ns, no range, no credentials',
    async (program) => {
      const made = IMAGES['lib/shape:1'];
      const base = `/v2/${HOST}/lib/shape`;
      recorder.take();
      if (program === 'podman') await pullWithPodman(tools, `${HOST}/lib/shape:1`);
      else await tools.skopeo('copy', `docker://${HOST}/lib/shape:1`, `dir:${join(scratch, 'shape')}`);
      const requests = recorder.take();
      const lines = requests.map(({ method, path }) => `${method} ${path}`);
      const blobs = made.blobs.map((blob) => `GET ${base}/blobs/${digestOf(blob)}`);
      expect(lines.slice(0, 2)).toEqual(['GET /v2/', `GET ${base}/manifests/1`]);
      expect(lines.slice(2).toSorted()).toEqual(blobs.toSorted());
      for (const { query, headers } of requests) {
        expect(query).toBe('');
        expect([headers.authorization, headers.range]).toEqual([undefined, undefined]);
      }
      const agent = program === 'podman' ? /^containers\/5\./ : /^skopeo\/1\./;
      expect(requests[1]?.headers['user-agent']).toMatch(agent);
      const accepted = requests[1]?.headers.accept?.split(/,\s*/);
      expect(accepted).toEqual(expect.arrayContaining([made.descriptor.mediaType, DOCKER_MANIFEST_LIST]));
    },
  );

  test('a pull whose connection breaks succeeds all the same', async () => {
    relay.resetAfter(4 * MIB);
    expect(await pullWithPodman(tools, `${HOST}/lib/large:1`)).toEqual(pulled(IMAGES['lib/large:1']));
    expect(relay.troublesLeft).toBe(0);
  });

  test('for all of that the registry sent each blob once', async () => {
    const made = Object.values(IMAGES).flatMap((each) => [each, ...each.manifests]);
    const blobs = made.flatMap((each) => each.blobs).map((blob) => [digestOf(blob), 1]);
    expect(await log.blobDownloads()).toEqual(Object.fromEntries(blobs));
  });
});

describe.skipIf(!canRun)('podman, with a mirror that does not serve it', () => {
  test('gets from the registry itself what the proxy cannot get, and everything if the proxy is down', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'dadi-p-'));
    const made = clientImage(43);
    const plain = await startFilledRegistry({ dir: join(directory, 'registry') }, { 'lib/late:1': made });
    const cutOff = await TestProxy.start({
      upstreams: [{ name: HOST, url: `http://127.0.0.1:${await freePort()}` }],
    });
    const seen = new RequestRecorder(cutOff.url);
    try {
      for (const mirror of [cutOff.host, `127.0.0.1:${await freePort()}`]) {
        const own = mkdtempSync(join(directory, 'tools-'));
        const podman = new ContainersTools(own, mirrored(plain.host, mirror, { insecure: true }));
        expect(await pullWithPodman(podman, `${plain.host}/lib/late:1`)).toEqual(pulled(made));
        await podman.remove();
      }
      expect(seen.take().map(({ path }) => path)).toContain('/v2/lib/late/manifests/1');
    } finally {
      seen.stop();
      await cutOff.remove();
      await plain.stop();
      rmSync(directory, { recursive: true });
    }
  });
});

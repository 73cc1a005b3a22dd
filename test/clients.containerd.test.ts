import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import type { ConversionStatus } from '../src/proxy/conversion/conversion-status.ts';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, platformsIndex, startFilledRegistry } from './support/client-images.ts';
import { Containerd, writeHosts } from './support/containerd.ts';
import { type MadeManifest, makeIndex } from './support/made-image.ts';
import { freePort } from './support/processes.ts';
import { chainIdOf } from './support/pulled-images.ts';
import type { Registry } from './support/registry.ts';
import { RegistryLog } from './support/registry-log.ts';
import { RequestRecorder } from './support/request-recorder.ts';
import { TcpRelay } from './support/tcp-relay.ts';
import { TestProxy } from './support/test-proxy.ts';
import { diffTrees, readTree, type TreeEntry } from './support/tree.ts';

const canRun = requireCapability('root', 'containerd', 'registry');

/** The registry as images are named after it. It is no host of any network. */
const HOST = 'reg.example';
const LARGE_BYTES = 6_000_000;
const PLATFORMS = platformsIndex(24);
const IMAGES = {
  'lib/plain:1': clientImage(21),
  'lib/docker:1': clientImage(22, { form: 'docker' }),
  'lib/zstd:1': clientImage(23, { form: 'oci-zstd' }),
  'lib/platforms:1': PLATFORMS,
  'lib/nested:1': makeIndex([{ made: PLATFORMS }]),
  'lib/large:1': clientImage(26, { randomBytes: LARGE_BYTES }),
  'lib/late:1': clientImage(27),
};

let scratch: string;
let registry: Registry;
let proxy: TestProxy;
let relay: TcpRelay;
let recorder: RequestRecorder;
let containerd: Containerd;
/** Directories of hosts.toml files: the proxy or the registry alone, the proxy or nobody before the registry. */
let byProxy: string;
let straight: string;
let withFallback: string;
let byNobody: string;

function hostsOf(name: string, host: string, server: URL): string {
  const directory = join(scratch, name);
  writeHosts(directory, HOST, host, server);
  return directory;
}

/** The tree of an image that was pulled in a namespace. */
async function unpacked(namespace: string, image: MadeManifest): Promise<TreeEntry[]> {
  return containerd.withPulled(namespace, chainIdOf(image), readTree);
}

/** containerd's native snapshotter copies what is below, and gives copied directories the time of the copy. */
function differences(expected: TreeEntry[], actual: TreeEntry[]): string[] {
  return diffTrees(expected, actual, (field, { type }) => field === 'mtimeNs' && type === 'directory');
}

/** Manifest, configuration and layers are there, byte for byte. */
async function expectContent(namespace: string, made: MadeManifest): Promise<void> {
  for (const bytes of [made.bytes, ...made.blobs]) {
    expect((await containerd.content(namespace, digestOf(bytes))).equals(bytes)).toBe(true);
  }
  for (const child of made.manifests) await expectContent(namespace, child);
}

describe.skipIf(!canRun)('containerd with the proxy in its hosts.toml', () => {
  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dadi-c-'));
    registry = await startFilledRegistry({ dir: join(scratch, 'registry') }, IMAGES);
    // The first upstream is another one: only `ns` leads to the registry.
    const nobody = new URL(`http://127.0.0.1:${await freePort()}`);
    const upstreams = [
      { name: 'nobody.example', url: nobody.href },
      { name: HOST, url: registry.baseUrl.href },
    ];
    proxy = await TestProxy.start({ upstreams, tagTtlMs: 0, conversion: { enabled: false } });
    relay = await TcpRelay.start(proxy.host);
    recorder = new RequestRecorder(proxy.url);
    containerd = await Containerd.start(join(scratch, 'c'));
    byProxy = hostsOf('by-proxy', relay.host, nobody);
    straight = hostsOf('straight', registry.host, nobody);
    withFallback = hostsOf('with-fallback', relay.host, registry.baseUrl);
    byNobody = hostsOf('by-nobody', nobody.host, registry.baseUrl);
  });

  afterAll(async () => {
    await containerd?.stop();
    recorder?.stop();
    await relay?.stop();
    await proxy?.remove();
    await registry?.stop();
    rmSync(scratch, { recursive: true });
  });

  test.each(['lib/plain:1', 'lib/docker:1', 'lib/zstd:1'] as const)(
    '%s comes by tag and by digest, and is unpacked to what it is unpacked to straight from the registry',
    async (name) => {
      const made = IMAGES[name];
      const id = name.replace(/\W/g, '-');
      const [repository] = name.split(':');
      const references = {
        tag: `${HOST}/${name}`,
        digest: `${HOST}/${repository}@${made.descriptor.digest}`,
      };
      recorder.take();
      await containerd.pullByHosts(straight, references.tag, { namespace: `${id}-straight` });
      const expected = await unpacked(`${id}-straight`, made);
      expect(recorder.take()).toEqual([]);
      for (const [how, reference] of Object.entries(references)) {
        const log = new RegistryLog(registry);
        const namespace = `${id}-${how}`;
        await containerd.pullByHosts(byProxy, reference, { namespace });
        expect(await containerd.digestOf(namespace, reference)).toBe(made.descriptor.digest);
        await expectContent(namespace, made);
        expect(differences(expected, await unpacked(namespace, made))).toEqual([]);
        expect(recorder.take().filter(({ path }) => path.includes('/blobs/'))).toHaveLength(
          made.blobs.length,
        );
        // Only the first time.
        const downloads = how === 'tag' ? made.blobs.map((blob) => [digestOf(blob), 1]) : [];
        expect(await log.blobDownloads()).toEqual(Object.fromEntries(downloads));
      }
    },
  );

  test.each(['platforms', 'nested'] as const)(
    'an index comes with all its platforms, also if it stands in another: %s',
    async (name) => {
      const index = IMAGES[`lib/${name}:1`];
      const reference = `${HOST}/lib/${name}:1`;
      await containerd.pullByHosts(straight, reference, { namespace: `${name}-straight` });
      await containerd.pullByHosts(byProxy, reference, { namespace: name });
      expect(await containerd.digestOf(name, reference)).toBe(index.descriptor.digest);
      await expectContent(name, index);
      for (const image of PLATFORMS.manifests) {
        const expected = await unpacked(`${name}-straight`, image);
        expect(differences(expected, await unpacked(name, image))).toEqual([]);
      }
    },
  );

  test('one platform of an index comes without the others', async () => {
    const { amd64, arm64 } = PLATFORMS.images;
    const reference = `${HOST}/lib/platforms@${PLATFORMS.descriptor.digest}`;
    await containerd.pullByHosts(byProxy, reference, { namespace: 'arm64', platform: 'linux/arm64' });
    await expectContent('arm64', arm64);
    await expect(containerd.content('arm64', digestOf(amd64.blobs[1]!))).rejects.toThrow(/not found/);
  });

  test('the platform that is pulled is converted first, the others of its index after it', async () => {
    const converting = await TestProxy.start({
      upstreams: [{ name: HOST, url: registry.baseUrl.href }],
      conversion: { images: 1, concurrency: 1 },
    });
    try {
      const hosts = hostsOf('converting', converting.host, registry.baseUrl);
      const pull = { namespace: 'converting', platform: 'linux/arm64' };
      await containerd.pullByHosts(hosts, `${HOST}/lib/platforms:1`, pull);
      const done = ({ descriptor }: MadeManifest) =>
        vi.waitFor(
          async () => {
            const answer = await converting.fetch(`/dadi/v1/conversions/${descriptor.digest}`);
            const status = (await answer.json()) as ConversionStatus;
            expect(status).toMatchObject({ state: 'done', error: null });
            return status;
          },
          { timeout: 120_000, interval: 200 },
        );
      await done(PLATFORMS);
      // The index names amd64 before arm64.
      const [amd64, arm64] = [await done(PLATFORMS.images.amd64), await done(PLATFORMS.images.arm64)];
      expect(arm64.platform).toBe('linux/arm64');
      expect(Date.parse(arm64.updatedAt)).toBeLessThan(Date.parse(amd64.updatedAt));
    } finally {
      await converting.remove();
    }
  });

  test('a pull that was killed in the middle of a layer goes on from there', async () => {
    const made = IMAGES['lib/large:1'];
    const pull = (signal?: AbortSignal) =>
      containerd.pullByHosts(byProxy, `${HOST}/lib/large:1`, {
        namespace: 'large',
        ...(signal === undefined ? {} : { signal }),
      });
    const log = new RegistryLog(registry);
    recorder.take();
    relay.stallAfter(LARGE_BYTES / 2);
    const kill = new AbortController();
    const killed = expect(pull(kill.signal)).rejects.toThrow('killed');
    await vi.waitFor(() => expect(Math.max(...containerd.unfinishedBytes())).toBeGreaterThan(1_000_000), {
      timeout: 60_000,
    });
    kill.abort(new Error('killed'));
    await killed;
    relay.mend();
    await pull();
    await expectContent('large', made);
    const layer = digestOf(made.blobs[1]!);
    const asked = recorder.take().filter(({ path }) => path.endsWith(layer));
    expect(asked.map(({ headers }) => headers.range)).toEqual([
      undefined,
      expect.stringMatching(/^bytes=\d{7,}-$/),
    ]);
    expect((await log.blobDownloads())[layer]).toBe(1);
  });

  test('the shape of its requests: a HEAD of the tag, a GET by digest, the blobs; each with ns, none a ping', async () => {
    const made = IMAGES['lib/plain:1'];
    recorder.take();
    await containerd.pullByHosts(byProxy, `${HOST}/lib/plain:1`, { namespace: 'shape' });
    const requests = recorder.take();
    const lines = requests.map(({ method, path }) => `${method} ${path}`);
    const { digest, mediaType } = made.descriptor;
    const blobs = made.blobs.map((blob) => `GET /v2/lib/plain/blobs/${digestOf(blob)}`);
    expect(lines.slice(0, 2)).toEqual([
      'HEAD /v2/lib/plain/manifests/1',
      `GET /v2/lib/plain/manifests/${digest}`,
    ]);
    expect(lines.slice(2).toSorted()).toEqual(blobs.toSorted());
    for (const { query, headers } of requests) {
      expect(query).toBe(`ns=${HOST}`);
      expect(headers.authorization).toBeUndefined();
      expect(headers.range).toBeUndefined();
      expect(headers['user-agent']).toMatch(/^containerd\/1\.6/);
    }
    const accepted = requests[0]?.headers.accept?.split(/,\s*/);
    expect(accepted).toEqual(expect.arrayContaining([mediaType, '*/*']));
  });

  test('what it does not get from the proxy it gets from the registry itself: the proxy is not there, or it was stopped', async () => {
    const made = IMAGES['lib/late:1'];
    const reference = `${HOST}/lib/late:1`;
    const log = new RegistryLog(registry);
    recorder.take();
    await containerd.pullByHosts(byNobody, reference, { namespace: 'down' });
    await expectContent('down', made);
    await proxy.stop();
    await containerd.pullByHosts(withFallback, reference, { namespace: 'stopped' });
    await expectContent('stopped', made);
    expect(recorder.take()).toEqual([]);
    expect((await log.blobDownloads())[digestOf(made.blobs[1]!)]).toBe(2);
  });
});

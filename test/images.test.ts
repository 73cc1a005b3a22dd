import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Digest } from '../src/oci/digest.ts';
import { digestOf } from '../src/oci/digest.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { type ImageManifest, type IndexManifest, parseManifest } from '../src/oci/manifest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST } from '../src/oci/media-types.ts';
import { signedSchema1Payload } from '../src/oci/schema1.ts';
import { requireCapability } from './support/capabilities.ts';
import { Containerd } from './support/containerd.ts';
import {
  ALL_PLATFORMS,
  CONVERTED_KINDS,
  DOCKER_LIST,
  INDEX_ENTRIES,
  layerOf,
  OTHER_KINDS,
  REFUSED_KINDS,
  tarOf,
} from './support/image-kinds.ts';
import { DOCKER_GZIP, LAYER_FORMS, OCI_GZIP, OCI_ZSTD, sampleTar } from './support/layer-forms.ts';
import { type MadeLayer, type MadeManifest, makeImage, pushMade, putMade } from './support/made-image.ts';
import { run } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';
import { bytesOf, errorOf, TestProxy } from './support/test-proxy.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const canRun = requireCapability('registry', 'skopeo');
const canJudge = requireCapability('root', 'containerd');
const canPack = requireCapability('pigz', 'bgzip', 'zstd');

let work: string;
let registry: Registry;
let proxy: TestProxy;

beforeAll(async () => {
  if (!canRun) return;
  work = mkdtempSync(join(tmpdir(), 'dadi-img-'));
  registry = await startRegistry({ dir: join(work, 'registry') });
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
    tagTtlMs: 0,
  });
});
afterAll(async () => {
  if (!canRun) return;
  await proxy.remove();
  await registry.stop();
  rmSync(work, { recursive: true });
});

interface Status {
  readonly state: string;
  readonly error: string | null;
  readonly converted: { readonly digest: Digest; readonly mediaType: string } | null;
}

async function pushAs(repository: string, made: MadeManifest): Promise<void> {
  await pushMade(registry.baseUrl, `lib/${repository}`, '1', made);
}

/** All that it consists of is served as it was made. */
async function expectServed(repository: string, made: MadeManifest, reference = '1'): Promise<void> {
  const manifest = await proxy.fetch(`/v2/lib/${repository}/manifests/${reference}`);
  expect(manifest.headers.get('content-type')).toBe(made.descriptor.mediaType);
  expect((await bytesOf(manifest)).equals(made.bytes)).toBe(true);
  for (const blob of new Set(made.blobs)) {
    const path = `/v2/lib/${repository}/blobs/${digestOf(blob)}`;
    expect((await bytesOf(await proxy.fetch(path))).equals(blob)).toBe(true);
  }
  for (const child of made.manifests) await expectServed(repository, child, child.descriptor.digest);
}

/** Copies all of it with skopeo, which checks the digest of everything, and compares with what was made. */
async function expectPulled(repository: string, made: MadeManifest): Promise<void> {
  const directory = mkdtempSync(join(work, 'pulled-'));
  const flags = ['copy', '--all', '--preserve-digests', '--src-tls-verify=false', '--src-no-creds'];
  const source = `docker://${proxy.host}/lib/${repository}:1`;
  await run('skopeo', ['--insecure-policy', ...flags, source, `dir:${directory}`]);
  expect(readFileSync(join(directory, 'manifest.json')).equals(made.bytes)).toBe(true);
  for (const blob of made.blobs) {
    expect(readFileSync(join(directory, digestOf(blob).slice(7))).equals(blob)).toBe(true);
  }
}

async function settled(digest: Digest, on = proxy): Promise<Status> {
  return vi.waitFor(
    async () => {
      const status = (await (await on.fetch(`/dadi/v1/conversions/${digest}`)).json()) as Status;
      expect(status.state).toMatch(/^(done|failed)$/);
      return status;
    },
    { timeout: 60_000, interval: 50 },
  );
}

/** What the proxy serves under a name, parsed. */
async function served(path: string, on = proxy) {
  const response = await on.fetch(path);
  expect(response.status).toBe(200);
  return parseManifest(await bytesOf(response), response.headers.get('content-type'));
}

const named = (kinds: readonly { readonly name: string }[]) =>
  kinds.map(({ name }, at) => [name, at] as const);

describe.skipIf(!canRun)('through the proxy, pulled by skopeo', () => {
  test.each(named(CONVERTED_KINDS))('%s comes unchanged and is converted', async (_name, at) => {
    const { made, isForSkopeo } = CONVERTED_KINDS[at]!;
    const repository = `converted-${at}`;
    await pushAs(repository, made);
    await expectServed(repository, made);
    if (isForSkopeo) await expectPulled(repository, made);
    expect(await settled(made.descriptor.digest)).toMatchObject({ state: 'done', error: null });
    const converted = (await served(`/v2/lib/${repository}/manifests/1_obd`)) as ImageManifest;
    // Whatever the original's types: Docker knows none for what is converted.
    expect(converted).toMatchObject({ kind: 'image', mediaType: OCI_MANIFEST, subject: made.descriptor });
    expect(converted.config.mediaType).toBe(OCI_CONFIG);
    expect(converted.layers.map((layer) => layer.mediaType)).toEqual(
      (parseManifest(made.bytes) as ImageManifest).layers.map(() => OCI_LAYER_TAR),
    );
  });

  test.each(named(REFUSED_KINDS))(
    '%s comes unchanged, and its conversion says why not',
    async (_name, at) => {
      const { made, reason } = REFUSED_KINDS[at]!;
      const repository = `refused-${at}`;
      await pushAs(repository, made);
      await expectServed(repository, made);
      const status = await settled(made.descriptor.digest);
      expect(status).toMatchObject({
        state: 'failed',
        converted: null,
        error: expect.stringMatching(reason ?? ''),
      });
      const refused = await errorOf(await proxy.fetch(`/v2/lib/${repository}/manifests/1_obd`));
      expect(refused).toMatchObject({ status: 404, code: 'MANIFEST_UNKNOWN' });
      expect(refused.message).toContain(status.error);
      await proxy.allFinished();
    },
  );

  test.each(named(OTHER_KINDS))('%s comes unchanged and is never converted', async (_name, at) => {
    const { made, reason } = OTHER_KINDS[at]!;
    const repository = `other-${at}`;
    await pushAs(repository, made);
    await expectServed(repository, made);
    expect((await proxy.fetch(`/dadi/v1/conversions/${made.descriptor.digest}`)).status).toBe(404);
    const refused = await errorOf(await proxy.fetch(`/v2/lib/${repository}/manifests/1_obd`));
    expect(refused.message).toMatch(reason ?? '');
  });

  test('an image with a layer that upstream has lost is served as far as it goes, and says so', async () => {
    const made = makeImage([layerOf('kept'), layerOf('lost')]);
    await pushAs('lost', made);
    const lost = digestOf(made.blobs[2]!);
    await fetch(new URL(`/v2/lib/lost/blobs/${lost}`, registry.baseUrl), { method: 'DELETE' });
    expect((await proxy.fetch('/v2/lib/lost/manifests/1')).status).toBe(200);
    const error = expect.stringContaining(lost);
    expect(await settled(made.descriptor.digest)).toMatchObject({ state: 'failed', error });
  });

  test("an image of Docker's first kind comes unchanged, and is not converted", async () => {
    const history = [{ created: '2025-05-20T00:00:00Z', created_by: 'a hand' }];
    const modern = makeImage([layerOf('schema1', DOCKER_GZIP)], { docker: true, config: { history } });
    await pushAs('modern', modern);
    const access = ['--src-tls-verify=false', '--dest-tls-verify=false', '--src-no-creds', '--dest-no-creds'];
    const at = (name: string) => `docker://${registry.host}/lib/${name}:1`;
    const flags = ['copy', '--format', 'v2s1', ...access];
    await run('skopeo', ['--insecure-policy', ...flags, at('modern'), at('schema1')]);
    const directory = join(work, 'schema1');
    const source = `docker://${proxy.host}/lib/schema1:1`;
    const open = ['copy', '--src-tls-verify=false', '--src-no-creds'];
    await run('skopeo', ['--insecure-policy', ...open, source, `dir:${directory}`]);
    const pulled = readFileSync(join(directory, 'manifest.json'));
    expect(JSON.parse(pulled.toString())).toMatchObject({ schemaVersion: 1, name: 'lib/schema1' });
    const url = new URL('/v2/lib/schema1/manifests/1', registry.baseUrl);
    const upstream = await fetch(url, { method: 'HEAD' });
    // The registry signs it anew for each answer; its digest is that of what is signed.
    const digest = digestOf(signedSchema1Payload(pulled) ?? '');
    expect(digest).toBe(upstream.headers.get('docker-content-digest'));
    const refused = await errorOf(await proxy.fetch('/v2/lib/schema1/manifests/1_obd'));
    expect(refused.message).toMatch(/Docker schema 1/);
  });

  test('an index of many platforms is converted entry by entry; attestations and all else stay in it', async () => {
    await pushAs('platforms', ALL_PLATFORMS);
    await expectServed('platforms', ALL_PLATFORMS);
    expect(await settled(ALL_PLATFORMS.descriptor.digest)).toMatchObject({ state: 'done' });
    const converted = (await served('/v2/lib/platforms/manifests/1_obd')) as IndexManifest;
    expect(converted).toMatchObject({ mediaType: OCI_INDEX, subject: ALL_PLATFORMS.descriptor });
    const { manifests: originals } = parseManifest(ALL_PLATFORMS.bytes) as IndexManifest;
    for (const [at, entry] of converted.manifests.entries()) {
      if (at >= INDEX_ENTRIES.converted.length) {
        expect(entry).toEqual(originals[at]);
        continue;
      }
      expect(entry.platform).toEqual(originals[at]?.platform);
      const image = await served(`/v2/lib/platforms/manifests/${entry.digest}`);
      expect(image.subject?.digest).toBe(originals[at]?.digest);
    }
    expect(converted.manifests).toHaveLength(originals.length);
    expect(converted.manifests[3]).toEqual(converted.manifests[0]);
    const [windows] = INDEX_ENTRIES.left;
    const error = expect.stringMatching(/windows/);
    expect(await settled(windows.made.descriptor.digest)).toMatchObject({ state: 'failed', error });
  });

  test("a list of Docker's is converted to an index of OCI's", async () => {
    await pushAs('list', DOCKER_LIST);
    await expectPulled('list', DOCKER_LIST);
    expect(await settled(DOCKER_LIST.descriptor.digest)).toMatchObject({ state: 'done' });
    const converted = (await served('/v2/lib/list/manifests/1_obd')) as IndexManifest;
    expect(converted).toMatchObject({ mediaType: OCI_INDEX, subject: DOCKER_LIST.descriptor });
    expect(converted.manifests.map((entry) => entry.mediaType)).toEqual([OCI_MANIFEST, OCI_MANIFEST]);
  });
});

describe.skipIf(!canRun || !canJudge)('containerd takes and refuses the same forms of a layer', () => {
  const tar = sampleTar();
  let containerd: Containerd;

  beforeAll(async () => {
    containerd = await Containerd.start(join(work, 'containerd'));
  });
  afterAll(() => containerd.stop());

  test.each(
    LAYER_FORMS.filter((form) => form.containerdDiffers === null).map(
      (form, at) => [form.name, form, at] as const,
    ),
  )('%s', async (_name, { mediaType, pack, error }, at) => {
    const made = makeImage([{ mediaType, bytes: pack(tar), diffId: digestOf(tar) }]);
    await pushMade(registry.baseUrl, 'lib/forms', String(at), made);
    const pull = containerd.pull(`${registry.host}/lib/forms:${at}`);
    if (error === null) await pull;
    else await expect(pull).rejects.toThrow(/failed to extract layer/);
  });
});

describe.skipIf(!canRun || !canPack)('the same tar makes the same converted layer', () => {
  const tar = sampleTar();
  const diffId = digestOf(tar);
  const programs: readonly (readonly [program: string, mediaType: string])[] = [
    ['gzip -9nc', OCI_GZIP],
    ['pigz -c', OCI_GZIP],
    ['pigz -ic -b 128', OCI_GZIP],
    ['pigz -11nc', OCI_GZIP],
    ['bgzip -c', OCI_GZIP],
    ['zstd -c', OCI_ZSTD],
    ['zstd -c --ultra -22 --long=27 --no-check', OCI_ZSTD],
    ['zstd -c --fast=5 -T2 -B50000', OCI_ZSTD],
  ];
  let expected: Digest;

  beforeAll(async () => {
    writeFileSync(join(work, 'layer.tar'), tar);
    expected = await convertedLayer('plain', { mediaType: OCI_LAYER_TAR, bytes: tar, diffId });
  });

  /** The digest of the layer that a pushed image of one layer is converted to. */
  async function convertPushed(repository: string, digest: Digest, on = proxy): Promise<Digest> {
    await on.fetch(`/v2/lib/${repository}/manifests/1`);
    expect(await settled(digest, on)).toMatchObject({ state: 'done' });
    const { layers } = (await served(`/v2/lib/${repository}/manifests/1_obd`, on)) as ImageManifest;
    return layers[0]!.digest;
  }

  async function convertedLayer(repository: string, layer: MadeLayer, on = proxy): Promise<Digest> {
    const made = makeImage([layer]);
    await pushAs(repository, made);
    return convertPushed(repository, made.descriptor.digest, on);
  }

  /** A proxy that has converted nothing yet. */
  async function withFreshProxy<T>(config: object, use: (fresh: TestProxy) => Promise<T>): Promise<T> {
    const url = registry.baseUrl.href;
    const fresh = await TestProxy.start({ upstreams: [{ name: 'other.example', url }], ...config });
    try {
      return await use(fresh);
    } finally {
      await fresh.remove();
    }
  }

  test.each(programs.map((each, at) => [...each, at] as const))(
    'packed by %s',
    async (program, mediaType, at) => {
      const path = join(work, `layer-${at}`);
      // From a pipe: no program knows the length beforehand.
      await run('sh', ['-c', `cat "$1" | ${program} > "$2"`, 'sh', join(work, 'layer.tar'), path]);
      const layer = { mediaType, bytes: readFileSync(path), diffId };
      const digest = await withFreshProxy({}, (fresh) => convertedLayer(`packed-${at}`, layer, fresh));
      expect(digest).toBe(expected);
    },
  );

  test.each(['gzip', 'zstd', 'zstd:chunked'])('packed by skopeo as %s', async (format) => {
    // One that skopeo has not seen in another form, which it would push instead.
    const content = tarOf(format, format.repeat(30_000));
    const plain = { mediaType: OCI_LAYER_TAR, bytes: content, diffId: digestOf(content) };
    const name = format.replace(':', '-');
    const source = join(work, `skopeo-${name}`);
    const history = [{ created: '2025-05-20T00:00:00Z' }];
    await putMade(source, '1', makeImage([plain], { config: { history } }));
    const flags = ['copy', '--dest-compress-format', format, '--dest-tls-verify=false', '--dest-no-creds'];
    const destination = `docker://${registry.host}/lib/skopeo-${name}:1`;
    await run('skopeo', ['--insecure-policy', ...flags, `oci:${source}:1`, destination]);
    const [digest, mediaType] = await withFreshProxy({}, async (fresh) => {
      const manifest = await served(`/v2/lib/skopeo-${name}/manifests/1`, fresh);
      const [layer] = (manifest as ImageManifest).layers;
      return [await convertPushed(`skopeo-${name}`, digestOf(manifest.bytes), fresh), layer?.mediaType];
    });
    expect(mediaType).toBe(format === 'gzip' ? OCI_GZIP : OCI_ZSTD);
    expect(digest).toBe(await convertedLayer(`skopeo-plain-${name}`, plain));
  });

  test('an image has the same converted digest in another proxy, under other names, with other concurrency, and by `dadi convert`', async () => {
    const made = makeImage(['x', 'y', 'z', 'x'].map((name) => layerOf(name)));
    const layout = join(work, 'same');
    await putMade(layout, '1', made);
    const convertIn = (on: TestProxy, repository: string) => async () => {
      await pushAs(repository, made);
      await on.fetch(`/v2/lib/${repository}/manifests/1`);
      return (await settled(made.descriptor.digest, on)).converted?.digest;
    };
    const here = await convertIn(proxy, 'same')();
    const there = await withFreshProxy({ conversion: { concurrency: 1 } }, (on) => convertIn(on, 'else')());
    expect(there).toBe(here);
    const { stdout } = await dadi('convert', `oci:${layout}:1`, `oci:${layout}-converted`, '--json');
    expect((JSON.parse(stdout) as { digest: string }).digest).toBe(here);
  });
});

function dadi(...args: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  return new Promise((done) => {
    execFile(process.execPath, [MAIN, ...args], (error, stdout, stderr) => {
      done({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

describe('dadi convert', () => {
  let layouts: string;
  beforeAll(() => {
    layouts = mkdtempSync(join(tmpdir(), 'dadi-img-'));
  });
  afterAll(() => rmSync(layouts, { recursive: true }));

  test.concurrent.each(named([...REFUSED_KINDS, ...OTHER_KINDS]))(
    '%s is an error that says why',
    async (_name, at) => {
      const { made, reason } = [...REFUSED_KINDS, ...OTHER_KINDS][at]!;
      const source = join(layouts, String(at));
      await putMade(source, '1', made);
      const { status, stderr } = await dadi('convert', `oci:${source}:1`, `oci:${source}-converted`);
      expect(stderr).toMatch(reason ?? '');
      expect(status).toBe(1);
    },
  );

  test('of an index, what cannot be converted is copied as it is, and named', async () => {
    const source = join(layouts, 'platforms');
    await putMade(source, '1', ALL_PLATFORMS);
    const { status, stdout } = await dadi(
      'convert',
      `oci:${source}:1`,
      `oci:${source}-converted:1`,
      '--json',
    );
    expect(status).toBe(0);
    const left = INDEX_ENTRIES.left.map(({ made }) => made);
    expect(JSON.parse(stdout)).toMatchObject({
      images: INDEX_ENTRIES.converted.map(({ made }) => ({ original: made.descriptor.digest })),
      leftAsTheyAre: left.map(({ descriptor }) => ({
        digest: descriptor.digest,
        reason: expect.any(String),
      })),
    });
    const layout = await ImageLayout.open(`${source}-converted`);
    const nested = left.flatMap((made) => made.manifests);
    for (const made of [...left, ...nested]) {
      expect((await layout.readBlob(made.descriptor.digest)).equals(made.bytes)).toBe(true);
    }
    const [, , { made: index }] = INDEX_ENTRIES.left;
    expect(await layout.readBlob(digestOf(index.manifests[0]!.blobs[1]!))).toBeTruthy();
  });

  test('of an index, an image that is asked for and cannot be converted is an error', async () => {
    const source = join(layouts, 'one-platform');
    await putMade(source, '1', ALL_PLATFORMS);
    const flags = ['--platform', 'windows/amd64'];
    const { status, stderr } = await dadi('convert', `oci:${source}:1`, `oci:${source}-converted`, ...flags);
    expect([status, stderr]).toEqual([1, expect.stringMatching(/for windows\/amd64/)]);
  });
});

import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { type ImageManifest, parseManifest } from '../src/oci/manifest.ts';
import { requireCapability } from './support/capabilities.ts';
import { buildImage, type LayoutImage, pushImage } from './support/images.ts';
import { run } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('registry', 'htpasswd', 'openssl', 'skopeo', 'umoci');

/** The registry's own account, who may do all. */
const ALICE = 'alice:secret';
/** Another one's, with rights to `bobs/` only. */
const BOB = 'bob:pass';

let scratch: string;
let image: LayoutImage;
let original: ImageManifest & { digest: string };

beforeAll(async () => {
  if (!canRun) return;
  scratch = mkdtempSync(join(tmpdir(), 'dadi-access-'));
  const layers = [];
  for (const name of ['base', 'top']) {
    mkdirSync(join(scratch, name));
    writeFileSync(join(scratch, name, `${name}.random`), randomBytes(1_000_000));
    layers.push(join(scratch, `${name}.tar`));
    await run('tar', ['-C', join(scratch, name), '-cf', join(scratch, `${name}.tar`), '.']);
  }
  image = await buildImage(scratch, 'two', layers);
  const { descriptor, bytes } = await (await ImageLayout.open(image.layout)).resolve(image.tag);
  const manifest = parseManifest(bytes, descriptor.mediaType);
  if (manifest.kind !== 'image') throw new Error('not an image');
  original = { ...manifest, digest: descriptor.digest };
});
afterAll(() => {
  if (canRun) rmSync(scratch, { recursive: true });
});

let registry: Registry;
let proxy: TestProxy;

async function begin(auth: 'basic' | 'token'): Promise<void> {
  registry = await startRegistry({
    dir: mkdtempSync(join(scratch, 'registry-')),
    auth,
    ...(auth === 'token'
      ? {
          accounts: [{ username: 'bob', password: 'pass', repositories: 'bobs/' }],
          publicRepositories: 'public/',
        }
      : {}),
  });
  for (const name of ['private/two:1', 'public/two:1', 'bobs/two:1']) await pushImage(image, registry, name);
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
    access: { mode: 'passthrough' },
  });
}

afterEach(async () => {
  if (!canRun) return;
  await proxy.remove();
  await registry.stop();
});

function get(path: string, account: string | null, headers: Record<string, string> = {}): Promise<Response> {
  const authorization =
    account === null ? {} : { authorization: `Basic ${Buffer.from(account).toString('base64')}` };
  return proxy.fetch(path, { headers: { ...headers, ...authorization } });
}

/** Pulls through the proxy with skopeo; `account` is USER:PASSWORD. */
async function skopeo(name: string, account: string | null): Promise<string> {
  const layout = mkdtempSync(join(scratch, 'pulled-'));
  const access = account === null ? ['--src-no-creds'] : ['--src-creds', account];
  const flags = ['copy', '--preserve-digests', '--src-tls-verify=false', ...access];
  await run('skopeo', ['--insecure-policy', ...flags, `docker://${proxy.host}/${name}`, `oci:${layout}:it`]);
  return (await (await ImageLayout.open(layout)).resolve('it')).descriptor.digest;
}

async function converted(repository: string, account: string): Promise<void> {
  await vi.waitFor(
    async () => {
      const answer = await get(`/dadi/v1/conversions/${original.digest}?repository=${repository}`, account);
      expect(await answer.json()).toMatchObject({ state: 'done', error: null, repository });
    },
    { timeout: 120_000, interval: 200 },
  );
}

/** All ways to what `private/two:1` is made of, and to what was made of it. */
async function waysIn(): Promise<string[]> {
  const inside = (path: string) => `/v2/private/two/${path}`;
  const obd = await get(inside('manifests/1_obd'), ALICE);
  expect(obd.status).toBe(200);
  const obdDigest = obd.headers.get('docker-content-digest');
  const obdManifest = (await obd.json()) as { layers: { digest: string }[]; config: { digest: string } };
  const tables = obdManifest.layers.flatMap(
    (layer) => JSON.stringify(layer).match(/sha256:[0-9a-f]{64}/g) ?? [],
  );
  const blobs = [...original.layers, original.config, obdManifest.config].map(({ digest }) => digest);
  return [
    ...['manifests/1', `manifests/${original.digest}`, 'manifests/1_obd', `manifests/${obdDigest}`].map(
      inside,
    ),
    ...[...blobs, ...tables].map((digest) => inside(`blobs/${digest}`)),
    inside(`referrers/${original.digest}`),
    inside('tags/list'),
    `/dadi/v1/conversions/${original.digest}?repository=private/two`,
    `/dadi/v1/images/${original.digest}?repository=private/two`,
  ];
}

describe.skipIf(!canRun)('with a registry that gives tokens', () => {
  beforeEach(() => begin('token'));

  test('what one may read, another one without rights does not get, whatever he asks for', async () => {
    expect(await skopeo('private/two:1', ALICE)).toBe(original.digest);
    await converted('private/two', ALICE);
    const ways = await waysIn();
    // Ours too: a blob of each kind, from the proxy alone.
    expect(ways.length).toBeGreaterThan(10);
    for (const path of ways) {
      expect((await get(path, ALICE)).status, path).toBe(200);
      for (const account of [BOB, 'bob:wrong', 'nobody:x', null]) {
        for (const headers of [{}, { range: 'bytes=0-9' }]) {
          const refused = await get(path, account, headers);
          expect(refused.status, `${account} ${path}`).toBe(401);
          const challenge = refused.headers.get('www-authenticate');
          expect(challenge).toContain(`realm="${proxy.url}/dadi/v1/token"`);
          expect(challenge).toContain('scope="repository:private/two:pull"');
          expect(refused.headers.get('docker-content-digest')).toBeNull();
        }
      }
    }
    await expect(skopeo('private/two:1', BOB)).rejects.toThrow(
      /unauthorized|denied|authentication required/i,
    );
    await expect(skopeo('private/two:1', null)).rejects.toThrow(
      /unauthorized|denied|authentication required/i,
    );
  });

  test('a digest of a private image opens nothing in a repository of one’s own', async () => {
    const secret = mkdtempSync(join(scratch, 'secret-'));
    writeFileSync(join(secret, 'secret'), randomBytes(1_000));
    await run('tar', ['-C', secret, '-cf', `${secret}.tar`, '.']);
    const built = await buildImage(secret, 'secret', [`${secret}.tar`]);
    await pushImage(built, registry, 'private/secret:1');
    const digest = await skopeo('private/secret:1', ALICE);
    const { descriptor, bytes } = await (await ImageLayout.open(built.layout)).resolve('secret');
    const manifest = parseManifest(bytes, descriptor.mediaType);
    if (manifest.kind !== 'image') throw new Error('not an image');
    for (const path of [
      `manifests/${digest}`,
      `blobs/${manifest.layers[0]!.digest}`,
      `blobs/${manifest.config.digest}`,
    ]) {
      expect((await get(`/v2/private/secret/${path}`, ALICE)).status).toBe(200);
      for (const repository of ['bobs/two', 'public/two']) {
        expect((await get(`/v2/${repository}/${path}`, BOB)).status).toBe(404);
      }
    }
    const status = await get(`/dadi/v1/conversions/${digest}?repository=bobs/two`, BOB);
    expect(status.status).toBe(404);
    expect((await get(`/dadi/v1/conversions/${digest}`, BOB)).status).toBe(400);
  });

  test('one who has rights of his own pulls the same image, and what is public needs no login', async () => {
    expect(await skopeo('private/two:1', ALICE)).toBe(original.digest);
    expect(await skopeo('bobs/two:1', BOB)).toBe(original.digest);
    expect(await skopeo('public/two:1', BOB)).toBe(original.digest);
    expect(await skopeo('public/two:1', null)).toBe(original.digest);
    expect(await skopeo('reg.example/private/two:1', ALICE)).toBe(original.digest);
    expect(await skopeo('reg.example/public/two:1', null)).toBe(original.digest);
    await expect(skopeo('public/two:1', 'bob:wrong')).rejects.toThrow(
      /unauthorized|authentication required/i,
    );
  });

  test('the conversion of a private image is made on behalf of who pulled it', async () => {
    const manifest = await get('/v2/private/two/manifests/1', ALICE);
    expect(manifest.status).toBe(200);
    await manifest.arrayBuffer();
    await converted('private/two', ALICE);
  });

  test('the conversion of the same image in another repository is shown to who reads that one', async () => {
    await skopeo('private/two:1', ALICE);
    await converted('private/two', ALICE);
    await skopeo('bobs/two:1', BOB);
    await converted('bobs/two', BOB);
    expect(await skopeo('bobs/two:1_obd', BOB)).toMatch(/^sha256:/);
  });
});

describe.skipIf(!canRun)('with a registry that wants Basic', () => {
  beforeEach(() => begin('basic'));

  test('its users read, and nobody else', async () => {
    expect(await skopeo('private/two:1', ALICE)).toBe(original.digest);
    await converted('private/two', ALICE);
    for (const path of await waysIn()) {
      expect((await get(path, ALICE)).status, path).toBe(200);
      for (const account of [BOB, 'alice:wrong', null]) {
        expect((await get(path, account)).status, `${account} ${path}`).toBe(401);
      }
    }
    await expect(skopeo('private/two:1', BOB)).rejects.toThrow(/unauthorized|authentication required/i);
    await expect(skopeo('private/two:1', null)).rejects.toThrow(/unauthorized|authentication required/i);
  });
});

import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { type ImageManifest, type Manifest, parseManifest } from '../src/oci/manifest.ts';
import { requireCapability } from './support/capabilities.ts';
import { buildImage, type LayoutImage, pushImage } from './support/images.ts';
import { run } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';
import { bytesOf, TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('registry', 'htpasswd', 'openssl', 'skopeo', 'umoci');

let scratch: string;
let image: LayoutImage;
let original: { digest: string; manifest: Manifest };

beforeAll(async () => {
  if (!canRun) return;
  scratch = mkdtempSync(join(tmpdir(), 'dadi-proxy-e2e-'));
  const layers = [];
  for (const name of ['base', 'top']) {
    mkdirSync(join(scratch, name));
    writeFileSync(join(scratch, name, `${name}.random`), randomBytes(2_000_000));
    writeFileSync(join(scratch, name, `${name}.text`), `${name}\n`.repeat(100_000));
    layers.push(join(scratch, `${name}.tar`));
    await run('tar', ['-C', join(scratch, name), '-cf', join(scratch, `${name}.tar`), '.']);
  }
  image = await buildImage(scratch, 'two', layers);
  original = await contentOf(image);
});
afterAll(() => {
  if (canRun) rmSync(scratch, { recursive: true });
});

let registry: Registry;
let proxy: TestProxy;

beforeEach(async () => {
  if (!canRun) return;
  registry = await startRegistry({ dir: mkdtempSync(join(scratch, 'registry-')), auth: 'token' });
  await pushImage(image, registry, 'lib/two:1');
  const { baseUrl, credentials } = registry;
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: baseUrl.href, credentials }],
    tagTtlMs: 0,
  });
});

afterEach(async () => {
  if (!canRun) return;
  await proxy.remove();
  await registry.stop();
});

async function contentOf({ layout, tag }: LayoutImage): Promise<{ digest: string; manifest: Manifest }> {
  const { descriptor, bytes } = await (await ImageLayout.open(layout)).resolve(tag);
  return { digest: descriptor.digest, manifest: parseManifest(bytes, descriptor.mediaType) };
}

/** Pulls through the proxy with skopeo, which checks every digest on its way. */
async function pull(name: string, ...options: string[]): Promise<{ digest: string; manifest: Manifest }> {
  const layout = mkdtempSync(join(scratch, 'pulled-'));
  const source = `docker://${proxy.host}/${name}`;
  const flags = ['copy', '--preserve-digests', '--src-tls-verify=false', '--src-no-creds', ...options];
  await run('skopeo', ['--insecure-policy', ...flags, source, `oci:${layout}:it`]);
  return contentOf({ layout, tag: 'it' });
}

async function waitForConversion(digest: string): Promise<void> {
  await vi.waitFor(
    async () => {
      const status = (await (await proxy.fetch(`/dadi/v1/conversions/${digest}`)).json()) as object;
      expect(status).toMatchObject({ state: 'done', error: null });
    },
    { timeout: 60_000, interval: 100 },
  );
}

describe.skipIf(!canRun)('between a real registry and a real client', () => {
  test('an image comes unchanged, by the default upstream, by prefix and by digest', async () => {
    for (const name of ['lib/two:1', 'reg.example/lib/two:1', `lib/two@${original.digest}`]) {
      expect(await pull(name)).toEqual(original);
    }
  });

  test('a Docker image comes unchanged, too', async () => {
    const { username, password } = registry.credentials!;
    const destination = `docker://${registry.host}/lib/docker:1`;
    await run('skopeo', [
      ...['--insecure-policy', 'copy', '--format', 'v2s2', '--dest-tls-verify=false'],
      ...['--dest-creds', `${username}:${password}`, `oci:${image.layout}:${image.tag}`, destination],
    ]);
    const raw = async (host: string, ...access: string[]) => {
      const flags = ['inspect', '--raw', '--tls-verify=false', ...access];
      return (await run('skopeo', ['--insecure-policy', ...flags, `docker://${host}/lib/docker:1`])).stdout;
    };
    const through = await raw(proxy.host, '--no-creds');
    expect(through).toContain('application/vnd.docker.distribution.manifest.v2+json');
    expect(through).toBe(await raw(registry.host, '--creds', `${username}:${password}`));
  });

  test('containerd names the registry by ns', async () => {
    const head = await proxy.fetch('/v2/lib/two/manifests/1?ns=reg.example', {
      method: 'HEAD',
      headers: { accept: 'application/vnd.docker.distribution.manifest.v2+json, */*' },
    });
    expect(head.status).toBe(200);
    expect(head.headers.get('docker-content-digest')).toBe(original.digest);
    const elsewhere = await proxy.fetch('/v2/lib/two/manifests/1?ns=docker.io', { method: 'HEAD' });
    expect(elsewhere.status).toBe(404);
  });

  test('a client that was interrupted goes on by a range', async () => {
    const [layer] = (original.manifest as ImageManifest).layers;
    const path = `/v2/lib/two/blobs/${layer?.digest}`;
    const whole = await bytesOf(await proxy.fetch(path));
    const rest = await proxy.fetch(path, { headers: { range: 'bytes=1000000-' } });
    expect(rest.status).toBe(206);
    expect((await bytesOf(rest)).equals(whole.subarray(1_000_000))).toBe(true);
  });

  test('what was pulled can be pulled again when the proxy was restarted and the registry is gone', async () => {
    await pull('lib/two:1');
    await proxy.stop();
    await registry.stop();
    await proxy.start();
    expect(await pull('lib/two:1')).toEqual(original);
  });

  test('a push is refused, and the registry does not hear of it', async () => {
    const source = `oci:${image.layout}:${image.tag}`;
    const flags = ['copy', '--dest-tls-verify=false', '--dest-no-creds'];
    const push = run('skopeo', ['--insecure-policy', ...flags, source, `docker://${proxy.host}/lib/new:1`]);
    await expect(push).rejects.toThrow(/push to the registry it mirrors|unsupported/i);
    expect((await proxy.fetch('/v2/lib/new/tags/list')).status).toBe(404);
  });

  test('the converted image can be pulled, and is found as a referrer of the original', async () => {
    await pull('lib/two:1');
    await waitForConversion(original.digest);
    const { digest, manifest } = await pull('lib/two:1_obd');
    expect(manifest.subject?.digest).toBe(original.digest);
    expect((manifest as ImageManifest).layers).toHaveLength(2);
    const referrers = await proxy.fetch(`/v2/lib/two/referrers/${original.digest}`);
    expect(await referrers.json()).toMatchObject({ manifests: [{ digest }] });
  });

  test('an image of several platforms is pulled and converted as one', async () => {
    const { username, password } = registry.credentials!;
    const amd64 = (original.manifest as ImageManifest).bytes;
    const descriptor = {
      mediaType: original.manifest.mediaType,
      digest: original.digest,
      size: amd64.length,
    };
    const index = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.index.v1+json',
        manifests: [{ ...descriptor, platform: { os: 'linux', architecture: 'amd64' } }],
      }),
    );
    await putManifest('lib/two', 'all', index, `${username}:${password}`);
    const all = await pull('lib/two:all', '--all');
    expect(all.manifest.kind).toBe('index');
    await waitForConversion(all.digest);
    const converted = await pull('lib/two:all_obd', '--all');
    expect(converted.manifest).toMatchObject({ kind: 'index', subject: { digest: all.digest } });
  });
});

/** What no client here can push: an index made by hand. */
async function putManifest(repository: string, tag: string, bytes: Buffer, account: string): Promise<void> {
  const url = `${registry.baseUrl.href}v2/${repository}/manifests/${tag}`;
  const headers = { 'content-type': 'application/vnd.oci.image.index.v1+json' };
  const body = new Uint8Array(bytes);
  const challenge =
    (await fetch(url, { method: 'PUT', headers, body })).headers.get('www-authenticate') ?? '';
  const parts = Object.fromEntries(
    [...challenge.matchAll(/(\w+)="([^"]*)"/g)].map((match) => match.slice(1)),
  );
  const query = new URLSearchParams({ service: parts['service'], scope: parts['scope'] });
  const basic = `Basic ${Buffer.from(account).toString('base64')}`;
  const answer = await fetch(`${parts['realm']}?${query}`, { headers: { authorization: basic } });
  const { token } = (await answer.json()) as { token: string };
  const authorization = `Bearer ${token}`;
  const put = await fetch(url, { method: 'PUT', headers: { ...headers, authorization }, body });
  expect(put.status).toBe(201);
}

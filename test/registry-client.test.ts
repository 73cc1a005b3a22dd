import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { digestHex, digestOf } from '../src/oci/digest.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { encodeJson, type ImageManifest, parseImageConfig, parseManifest } from '../src/oci/manifest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../src/oci/media-types.ts';
import { RegistryClient } from '../src/oci/registry-client.ts';
import { requireCapability } from './support/capabilities.ts';
import { buildImage, type LayoutImage, pushImage } from './support/images.ts';
import { run } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';

const canRun = requireCapability('registry', 'htpasswd', 'openssl', 'skopeo', 'umoci');

let scratch: string;
let image: LayoutImage;
let pushed: { digest: string; manifest: ImageManifest };

beforeAll(async () => {
  if (!canRun) return;
  scratch = mkdtempSync(join(tmpdir(), 'registry-client-'));
  mkdirSync(join(scratch, 'tree'));
  writeFileSync(join(scratch, 'tree', 'random'), randomBytes(2_000_000));
  await run('tar', ['-C', join(scratch, 'tree'), '-cf', join(scratch, 'layer.tar'), '.']);
  image = await buildImage(scratch, 'one', [join(scratch, 'layer.tar')]);
  const { descriptor, bytes } = await (await ImageLayout.open(image.layout)).resolve('one');
  pushed = { digest: descriptor.digest, manifest: asImage(bytes, descriptor.mediaType) };
});
afterAll(() => {
  if (canRun) rmSync(scratch, { recursive: true });
});

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function startedRegistry(options: { auth?: 'basic' | 'token'; tls?: boolean } = {}): Promise<Registry> {
  const registry = await startRegistry({ dir: mkdtempSync(join(scratch, 'registry-')), ...options });
  cleanups.push(() => registry.stop());
  return registry;
}

function clientOf(baseUrl: URL, credentials: Registry['credentials']): RegistryClient {
  const client = new RegistryClient({ baseUrl, credentials, retry: { retries: 1 } });
  cleanups.push(() => client.close());
  return client;
}

function asImage(bytes: Buffer, mediaType: string): ImageManifest {
  const manifest = parseManifest(bytes, mediaType);
  if (manifest.kind !== 'image') throw new Error('not an image');
  return manifest;
}

describe.skipIf(!canRun)('with a real registry', () => {
  test.each([{}, { auth: 'basic' }, { auth: 'token' }] as const)(
    'an image is read whole and in parts: %j',
    async (options) => {
      const registry = await startedRegistry(options);
      await pushImage(image, registry, 'lib/deep/a:1');
      const client = clientOf(registry.baseUrl, registry.credentials);

      const resolved = await client.resolve('lib/deep/a', '1');
      const { bytes } = pushed.manifest;
      expect(resolved).toEqual({ digest: pushed.digest, mediaType: OCI_MANIFEST, size: bytes.length });
      const fetched = { digest: pushed.digest, mediaType: OCI_MANIFEST, bytes };
      expect(await client.manifest('lib/deep/a', '1')).toEqual(fetched);
      expect(await client.manifest('lib/deep/a', resolved.digest)).toEqual(fetched);

      const { config, layers } = pushed.manifest;
      const configBytes = await client.readBlob('lib/deep/a', config.digest, { maxBytes: 100_000 });
      expect(parseImageConfig(configBytes).rootfs.diff_ids).toHaveLength(1);

      const [layer] = layers;
      if (layer === undefined) throw new Error('the image has no layer');
      expect(await client.statBlob('lib/deep/a', layer.digest)).toEqual({ sizeBytes: layer.size });
      const download = await client.blob('lib/deep/a', layer.digest);
      expect(download).toMatchObject({ status: 200, sizeBytes: layer.size, lengthBytes: layer.size });
      const whole = Buffer.concat(await download.body.toArray());
      expect(digestOf(whole)).toBe(layer.digest);

      const rest = await client.blob('lib/deep/a', layer.digest, { offset: 1_000_000 });
      expect(rest).toMatchObject({ status: 206, sizeBytes: layer.size, offsetBytes: 1_000_000 });
      expect(Buffer.concat(await rest.body.toArray()).equals(whole.subarray(1_000_000))).toBe(true);
      const parts = [0, 262_144, 12_345, layer.size - 1000].map(async (offset) => {
        const length = Math.min(262_144, layer.size - offset);
        const part = await client.readBlobRange('lib/deep/a', layer.digest, offset, length);
        expect(part.equals(whole.subarray(offset, offset + length))).toBe(true);
      });
      await Promise.all(parts);

      expect(await client.tags('lib/deep/a')).toEqual(['1']);
    },
  );

  test.each(['basic', 'token'] as const)('wrong or no credentials are refused: %s', async (auth) => {
    const registry = await startedRegistry({ auth });
    await pushImage(image, registry, 'lib/a:1');
    const refused = { code: 'ERR_REGISTRY_UNAUTHORIZED', status: 401, host: registry.host };
    for (const credentials of [{ username: 'alice', password: 'wrong' }, null]) {
      const client = clientOf(registry.baseUrl, credentials);
      await expect(client.manifest('lib/a', '1')).rejects.toMatchObject(refused);
    }
  });

  test('what is not there is not found, and a range outside the blob not satisfiable', async () => {
    const registry = await startedRegistry();
    await pushImage(image, registry, 'lib/a:1');
    const client = clientOf(registry.baseUrl, null);
    const missing = { code: 'ERR_REGISTRY_NOT_FOUND', status: 404 };
    const said = { ...missing, entries: [{ code: 'MANIFEST_UNKNOWN' }] };
    await expect(client.manifest('lib/a', '2')).rejects.toMatchObject(said);
    await expect(client.resolve('lib/none', '1')).rejects.toMatchObject(missing);
    await expect(client.blob('lib/a', digestOf('no such blob'))).rejects.toMatchObject(missing);
    const { digest, size } = pushed.manifest.config;
    await expect(client.blob('lib/a', digest, { offset: size })).rejects.toMatchObject({ status: 416 });
  });

  test('an image in Docker form is read as it is stored', async () => {
    const registry = await startedRegistry();
    const destination = `docker://${registry.host}/lib/a:docker`;
    const copy = [
      'copy',
      '--format',
      'v2s2',
      '--dest-tls-verify=false',
      `oci:${image.layout}:one`,
      destination,
    ];
    await run('skopeo', ['--insecure-policy', ...copy]);
    const client = clientOf(registry.baseUrl, null);
    const { mediaType, bytes } = await client.manifest('lib/a', 'docker');
    expect(mediaType).toBe('application/vnd.docker.distribution.manifest.v2+json');
    expect(asImage(bytes, mediaType).layers.map(({ digest }) => digest)).toEqual(
      pushed.manifest.layers.map(({ digest }) => digest),
    );
  });

  test('referrers of a registry without that API come from the fallback tag', async () => {
    const registry = await startedRegistry();
    await pushImage(image, registry, 'lib/a:1');
    const client = clientOf(registry.baseUrl, null);
    const subject = digestOf('subject');
    expect(await client.referrers('lib/a', subject)).toEqual([]);

    const { digest, size } = await client.resolve('lib/a', '1');
    const entry = { mediaType: OCI_MANIFEST, digest, size, artifactType: 'application/x.one' };
    const index = encodeJson({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry] });
    const url = new URL(`/v2/lib/a/manifests/sha256-${digestHex(subject)}`, registry.baseUrl);
    const put = await fetch(url, { method: 'PUT', headers: { 'content-type': OCI_INDEX }, body: index });
    expect(put.status).toBe(201);
    expect(await client.referrers('lib/a', subject)).toMatchObject([entry]);
    expect(await client.referrers('lib/a', subject, { artifactType: 'application/x.one' })).toHaveLength(1);
    expect(await client.referrers('lib/a', subject, { artifactType: 'application/x.two' })).toEqual([]);
  });

  test('a certificate is checked: unknown it is refused, known by NODE_EXTRA_CA_CERTS accepted', async () => {
    const registry = await startedRegistry({ tls: true });
    await pushImage(image, registry, 'lib/a:1');
    await expect(clientOf(registry.baseUrl, null).resolve('lib/a', '1')).rejects.toMatchObject({
      code: 'ERR_REGISTRY_UNREACHABLE',
      message: expect.stringMatching(/certificate/),
    });
    const program = `
      import { RegistryClient } from ${JSON.stringify(resolve('src/oci/registry-client.ts'))};
      const client = new RegistryClient({ baseUrl: new URL(${JSON.stringify(registry.baseUrl)}) });
      console.log((await client.manifest('lib/a', '1')).digest);
      await client.close();`;
    const env = { NODE_EXTRA_CA_CERTS: join(registry.certificatesDir ?? '', 'ca.crt') };
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', program], { env });
    expect(stdout.trim()).toBe(pushed.digest);
  });
});

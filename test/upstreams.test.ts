import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { httpProxiesOf } from '../src/oci/http-proxies.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { parseManifest } from '../src/oci/manifest.ts';
import { RegistryClient } from '../src/oci/registry-client.ts';
import { readRegistryTls } from '../src/oci/registry-tls.ts';
import { requireCapability } from './support/capabilities.ts';
import { startConnectProxy } from './support/connect-proxy.ts';
import { buildImage, type LayoutImage, pushImage } from './support/images.ts';
import { freePort, run, start } from './support/processes.ts';
import { IDENTITY_TOKEN, REGISTRY_NAME, type Registry, startRegistry } from './support/registry.ts';
import { bytesOf, TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('registry', 'htpasswd', 'openssl', 'skopeo', 'umoci');

let scratch: string;
let image: LayoutImage;
let manifestDigest: string;
let layerDigest: string;

beforeAll(async () => {
  if (!canRun) return;
  scratch = mkdtempSync(join(tmpdir(), 'upstreams-'));
  mkdirSync(join(scratch, 'tree'));
  writeFileSync(join(scratch, 'tree', 'random'), randomBytes(3_000_000));
  await run('tar', ['-C', join(scratch, 'tree'), '-cf', join(scratch, 'layer.tar'), '.']);
  image = await buildImage(scratch, 'one', [join(scratch, 'layer.tar')]);
  const { descriptor, bytes } = await (await ImageLayout.open(image.layout)).resolve('one');
  const manifest = parseManifest(bytes, descriptor.mediaType);
  manifestDigest = descriptor.digest;
  layerDigest = manifest.kind === 'image' ? (manifest.layers[0]?.digest ?? '') : '';
});
afterAll(() => {
  if (canRun) rmSync(scratch, { recursive: true });
});

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** With the image as `lib/a:1`. */
async function startedRegistry(
  options: Partial<Parameters<typeof startRegistry>[0]> = {},
): Promise<Registry> {
  const registry = await startRegistry({ dir: mkdtempSync(join(scratch, 'registry-')), ...options });
  cleanups.push(() => registry.stop());
  await pushImage(image, registry, 'lib/a:1');
  return registry;
}

async function startedProxy(upstream: object, more: object = {}): Promise<TestProxy> {
  const upstreams = [{ name: 'reg.example', ...upstream }];
  const proxy = await TestProxy.start({ upstreams, conversion: { enabled: false }, tagTtlMs: 0, ...more });
  cleanups.push(() => proxy.remove());
  return proxy;
}

/** That the whole image comes through. */
async function expectImage(proxy: Pick<TestProxy, 'fetch'>): Promise<void> {
  const manifest = await proxy.fetch('/v2/lib/a/manifests/1');
  const bytes = await bytesOf(manifest);
  expect([manifest.status, bytes.toString('utf8', 0, 1), digestOf(bytes)]).toEqual([
    200,
    '{',
    manifestDigest,
  ]);
  const layer = await proxy.fetch(`/v2/lib/a/blobs/${layerDigest}`);
  expect(digestOf(await bytesOf(layer))).toBe(layerDigest);
}

function writeScratch(name: string, content: string | object, mode = 0o600): string {
  const path = join(mkdtempSync(join(scratch, 'file-')), name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  chmodSync(path, mode);
  return path;
}

describe.skipIf(!canRun)('credentials of an upstream', () => {
  test.each(['basic', 'token'] as const)('come from configuration, file or helper: %s', async (auth) => {
    const registry = await startedRegistry({ auth });
    const url = registry.baseUrl.href;
    const { username, password } = registry.credentials!;
    const helper = writeScratch(
      'docker-credential-vault',
      `#!/bin/sh\ncat > /dev/null\necho '${JSON.stringify({ Username: username, Secret: password })}'\n`,
      0o755,
    );
    const path = process.env['PATH'];
    process.env['PATH'] = `${join(helper, '..')}:${path}`;
    const encoded = Buffer.from(`${username}:${password}`).toString('base64');
    const ways = [
      { username, password },
      { username, passwordFile: writeScratch('password', `${password}\n`) },
      { dockerConfig: writeScratch('config.json', { auths: { 'reg.example': { auth: encoded } } }) },
      { dockerConfig: writeScratch('config.json', { credHelpers: { 'reg.example': 'vault' } }) },
      { dockerConfig: writeScratch('config.json', { credsStore: 'vault' }) },
      { helper: 'vault' },
      ...(auth === 'token'
        ? [
            { identityToken: IDENTITY_TOKEN },
            { identityTokenFile: writeScratch('token', IDENTITY_TOKEN) },
            {
              dockerConfig: writeScratch('config.json', {
                auths: { 'https://reg.example/v1/': { auth: encoded, identitytoken: IDENTITY_TOKEN } },
              }),
            },
          ]
        : []),
    ];
    try {
      for (const credentials of ways) await expectImage(await startedProxy({ url, credentials }));
    } finally {
      process.env['PATH'] = path;
    }
  });

  test.each(['basic', 'token'] as const)(
    "a caller's own are good for the registry or not, whatever the proxy's are: %s",
    async (auth) => {
      const registry = await startedRegistry({ auth });
      const { baseUrl, credentials } = registry;
      const client = new RegistryClient({ baseUrl, credentials });
      cleanups.push(() => client.close());
      const as = (user: string) => client.withAuthorization(`Basic ${Buffer.from(user).toString('base64')}`);
      await client.resolve('lib/a', '1');
      expect(await as('alice:secret').resolve('lib/a', '1')).toMatchObject({ digest: manifestDigest });
      for (const stranger of [as('mallory:secret'), client.withCredentials(null)]) {
        await expect(stranger.resolve('lib/a', '1')).rejects.toMatchObject({
          code: 'ERR_REGISTRY_UNAUTHORIZED',
          challenge: expect.stringMatching(
            auth === 'basic' ? /^Basic realm="basic-realm"$/ : /^Bearer realm=/,
          ),
        });
      }
    },
  );
});

describe.skipIf(!canRun)('an upstream over TLS', () => {
  test('is reached with the authority that the configuration names, and refused without it', async () => {
    const registry = await startedRegistry({ tls: true, auth: 'basic' });
    const access = { url: registry.baseUrl.href, credentials: registry.credentials };
    const ca = join(registry.certificatesDir!, 'ca.crt');
    await expectImage(await startedProxy({ ...access, tls: { ca } }));
    const distrustful = await startedProxy(access);
    const answer = await distrustful.fetch('/v2/lib/a/manifests/1');
    expect([answer.status, await answer.text()]).toEqual([503, expect.stringMatching(/certificate.*\(ca\)/)]);
  });

  test('is reached without a check only where that is asked for, and the log says so loudly', async () => {
    const registry = await startedRegistry({ tls: true });
    const proxy = await startedProxy({ url: registry.baseUrl.href, tls: { insecureSkipVerify: true } });
    await expectImage(proxy);
    expect(proxy.logged).toContainEqual(
      expect.objectContaining({
        level: 40,
        key: 'upstreams.0.tls.insecureSkipVerify',
        msg: expect.stringMatching(/^CERTIFICATES ARE NOT CHECKED/),
      }),
    );
  });

  test('that asks for a client certificate gets it, and is refused without it with a hint', async () => {
    const registry = await startedRegistry({ tls: true, clientCertificates: true });
    const url = registry.baseUrl.href;
    const file = (name: string) => join(registry.certificatesDir!, name);
    const tls = { ca: file('ca.crt'), certificate: file('client.cert'), key: file('client.key') };
    await expectImage(await startedProxy({ url, tls }));
    const without = await startedProxy({ url, tls: { ca: tls.ca } });
    const answer = await without.fetch('/v2/lib/a/manifests/1');
    expect([answer.status, await answer.text()]).toEqual([503, expect.stringMatching(/client certificate/)]);
  });

  test('with files that cannot be used keeps the proxy from starting, with the key and the file', async () => {
    const registry = await startedRegistry({ tls: true, clientCertificates: true });
    const file = (name: string) => join(registry.certificatesDir!, name);
    const garbage = writeScratch(
      'garbage.pem',
      '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
    );
    const wrongKey = join(registry.certificatesDir!, '..', 'ca.crt.key');
    for (const [tls, message] of [
      [{ ca: '/nowhere/ca.pem' }, /^upstreams\.0\.tls: cannot read \/nowhere\/ca\.pem/],
      [{ ca: file('client.key') }, /^upstreams\.0\.tls: there is no certificate in .*client\.key/],
      [{ ca: garbage }, /garbage\.pem cannot be read/],
      [{ certificate: file('client.cert') }, /^upstreams\.0\.tls: .*go together/],
      [{ certificate: file('client.cert'), key: wrongKey }, /ca\.crt\.key is not the key of/],
    ] as const) {
      const starting = startedProxy({ url: registry.baseUrl.href, tls });
      await expect(starting).rejects.toMatchObject({
        code: 'ERR_CONFIG',
        message: expect.stringMatching(message),
      });
    }
  });
});

describe.skipIf(!canRun)('where an upstream is', () => {
  test('an upstream on IPv6 is reached by its address, by ns and by path', async () => {
    // skopeo, which fills registries here, takes no such address.
    const dir = mkdtempSync(join(scratch, 'registry-'));
    await startedRegistry({ dir });
    const registry = await startRegistry({ dir, address: '[::1]' });
    cleanups.push(() => registry.stop());
    const proxy = await TestProxy.start({
      upstreams: [{ name: 'reg.example', url: 'http://127.0.0.1:9' }, { name: registry.host }],
      conversion: { enabled: false },
    });
    cleanups.push(() => proxy.remove());
    const byNs = await proxy.fetch(`/v2/lib/a/manifests/1?ns=${encodeURIComponent(registry.host)}`);
    expect([byNs.status, digestOf(await bytesOf(byNs))]).toEqual([200, manifestDigest]);
    const byPath = await proxy.fetch(`/v2/${registry.host}/lib/a/blobs/${layerDigest}`);
    expect([byPath.status, digestOf(await bytesOf(byPath))]).toEqual([200, layerDigest]);
  });

  test('mirrors are asked in order, the next one where one is down or lacks it, the registry last', async () => {
    const registry = await startedRegistry({ auth: 'basic' });
    const mirror = await startedRegistry({ tls: true, auth: 'basic' });
    const empty = await startRegistry({ dir: mkdtempSync(join(scratch, 'registry-')) });
    cleanups.push(() => empty.stop());
    const down = `http://127.0.0.1:${await freePort()}`;
    const { credentials } = mirror;
    const tls = { ca: join(mirror.certificatesDir!, 'ca.crt') };
    const mirrors = [
      { url: down },
      { url: empty.baseUrl.href },
      { url: mirror.baseUrl.href, tls, credentials },
    ];
    const access = { credentials: registry.credentials, mirrors };
    await expectImage(await startedProxy({ ...access, url: down }));
    await mirror.stop();
    await expectImage(await startedProxy({ ...access, url: registry.baseUrl.href }));
  });
});

describe.skipIf(!canRun)('an HTTP proxy on the way', () => {
  /** By a name that nobody but the HTTP proxy can resolve. */
  const named = (registry: Registry) =>
    new URL(registry.baseUrl.href.replace('127.0.0.1', REGISTRY_NAME)).href;

  test('is tunnelled through to an upstream with TLS, as the environment says', async () => {
    const registry = await startedRegistry({ tls: true, auth: 'basic' });
    const connectProxy = await startConnectProxy('Basic dTpw');
    cleanups.push(() => connectProxy.stop());
    const port = await freePort();
    const config = writeScratch('proxy.yaml', {
      listen: `127.0.0.1:${port}`,
      admin: null,
      dataDirectory: join(mkdtempSync(join(scratch, 'data-')), 'proxy'),
      upstreams: [
        {
          name: 'reg.example',
          url: named(registry),
          credentials: registry.credentials,
          tls: { ca: join(registry.certificatesDir!, 'ca.crt') },
        },
      ],
      conversion: { enabled: false },
    });
    const url = `http://127.0.0.1:${port}`;
    const proxy = await start(process.execPath, ['src/cli/main.ts', 'proxy', '--config', config], {
      logPath: join(scratch, 'dadi-proxy.log'),
      env: { HTTPS_PROXY: connectProxy.url.replace('//', '//u:p@'), HTTP_PROXY: '', NO_PROXY: '10.0.0.0/8' },
      readyWhen: async () => (await fetch(`${url}/v2/`)).ok,
    });
    cleanups.push(() => proxy.stop());
    await expectImage({ fetch: (path) => fetch(`${url}${path}`) });
    const tunnels = new Set(connectProxy.asked);
    expect([...tunnels]).toEqual([`CONNECT ${new URL(named(registry)).host}`]);
  });

  function clientBy(registry: Registry, environment: Record<string, string>): RegistryClient {
    const client = new RegistryClient({
      baseUrl: new URL(named(registry)),
      credentials: registry.credentials,
      proxies: httpProxiesOf(environment),
      ...(registry.certificatesDir === null
        ? {}
        : { tls: readRegistryTls({ ca: join(registry.certificatesDir, 'ca.crt') }) }),
      retry: { retries: 0 },
    });
    cleanups.push(() => client.close());
    return client;
  }

  test('forwards requests to an upstream with plain http, and whole blobs', async () => {
    const registry = await startedRegistry({ auth: 'basic' });
    const connectProxy = await startConnectProxy();
    cleanups.push(() => connectProxy.stop());
    const client = clientBy(registry, { http_proxy: connectProxy.url });
    const { digest } = await client.manifest('lib/a', '1');
    expect(digest).toBe(manifestDigest);
    expect(connectProxy.asked.at(-1)).toBe(`GET ${named(registry)}v2/lib/a/manifests/1`);
    const { body } = await client.blob('lib/a', layerDigest as typeof digest);
    expect(digestOf(Buffer.concat(await body.toArray()))).toBe(layerDigest);
  });

  test('is not used for what NO_PROXY names, and its refusal is an error', async () => {
    const registry = await startedRegistry({ tls: true });
    const connectProxy = await startConnectProxy('Basic dTpw');
    cleanups.push(() => connectProxy.stop());
    const https = { HTTPS_PROXY: connectProxy.url };
    await expect(clientBy(registry, https).resolve('lib/a', '1')).rejects.toMatchObject({
      code: 'ERR_REGISTRY_UNREACHABLE',
      message: expect.stringContaining('407'),
    });
    const asked = connectProxy.asked.length;
    // Its name is only known to the HTTP proxy.
    const direct = clientBy(registry, { ...https, NO_PROXY: `.example.com,${REGISTRY_NAME}` });
    await expect(direct.resolve('lib/a', '1')).rejects.toMatchObject({
      code: 'ERR_REGISTRY_UNREACHABLE',
      message: expect.stringMatching(/ENOTFOUND|EAI_AGAIN/),
    });
    expect(connectProxy.asked).toHaveLength(asked);
  });
});

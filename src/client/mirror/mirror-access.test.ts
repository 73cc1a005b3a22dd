import { request as httpRequest } from 'node:http';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import { TestMirror } from '../../../test/support/test-mirror.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { basicAuthorization } from '../../oci/credentials.ts';
import { parseChallenges } from '../../oci/registry-auth.ts';

const ALICE = basicAuthorization({ username: 'alice', password: 'secret' });
const BOB = basicAuthorization({ username: 'bob', password: 'secret' });
const LAYER = randomBytes(600_000, 43);
const LONG_MS = 30_000;

let upstream: FakeRegistry;
let proxies: TestProxy[];
let mirror: TestMirror;
let image: ReturnType<FakeRegistry['putImage']>;

beforeAll(async () => {
  upstream = await FakeRegistry.start();
  upstream.intercept = (request, response) => {
    const isPrivate = request.url?.startsWith('/v2/private/');
    if (!isPrivate || request.headers.authorization === ALICE) return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="upstream"' }).end();
    return true;
  };
  const config = {
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'passthrough' },
    conversion: { enabled: false },
  };
  // Neither takes the other's tokens.
  proxies = [await TestProxy.start(config), await TestProxy.start(config)];
  mirror = await TestMirror.start(proxies.map(({ url }) => url));
  image = upstream.putImage([LAYER], '1');
});

afterAll(async () => {
  await mirror?.remove();
  for (const proxy of proxies ?? []) await proxy.remove();
  await upstream?.stop();
});

const get = (path: string, authorization?: string, method = 'GET') =>
  mirror.fetch(`/v2/${path}?ns=reg.example`, {
    method,
    headers: authorization === undefined ? {} : { authorization },
  });

async function tokenFor(authorization: string | undefined, challenge: string): Promise<string> {
  const [{ parameters } = { parameters: new Map<string, string>() }] = parseChallenges(challenge);
  const realm = new URL(parameters.get('realm') ?? '');
  expect(realm.origin).toBe(mirror.server.url.origin);
  for (const name of ['service', 'scope']) realm.searchParams.set(name, parameters.get(name) ?? '');
  const answer = await fetch(realm, { headers: authorization === undefined ? {} : { authorization } });
  return `Bearer ${((await answer.json()) as { token: string }).token}`;
}

test('what is kept of a private image is given to those alone whom the proxy lets in', async () => {
  const paths = [`private/a/manifests/${image.digest}`, `private/a/blobs/${image.layers[0]}`];
  for (const path of paths) expect((await get(path, ALICE)).status, path).toBe(200);
  expect(await bytesOf(await get(paths[1]!, ALICE))).toEqual(LAYER);
  await vi.waitFor(
    async () => {
      await bytesOf(await get(paths[1]!, ALICE));
      expect(mirror.server.stats.cacheHits).toBeGreaterThan(0);
    },
    { timeout: LONG_MS },
  );
  for (const path of paths) {
    for (const method of ['GET', 'HEAD']) {
      for (const authorization of [BOB, undefined]) {
        const answer = await get(path, authorization, method);
        expect([answer.status, answer.headers.has('www-authenticate')], path).toEqual([401, true]);
        await answer.text();
      }
    }
  }
  // The right to one repository is none to another.
  const elsewhere = await get(`private/b/blobs/${image.layers[0]}`, BOB);
  expect(elsewhere.status).toBe(401);
});

test('a private blob on its way for one is not joined by another', async () => {
  const relay = await FaultyRelay.start(proxies[0]!.url);
  const own = await TestMirror.start([relay.url]);
  try {
    const [layer] = upstream.putImage([randomBytes(600_000, 44)], '2').layers;
    const path = `/v2/private/d/blobs/${layer}?ns=reg.example`;
    const held = Promise.withResolvers<void>();
    relay.hold = (asked, method) => (asked.includes('/blobs/') && method === 'GET' ? held.promise : null);
    const alices = own.fetch(path, { headers: { authorization: ALICE } });
    await vi.waitFor(() => expect(relay.count('/blobs/')).toBe(1), { timeout: LONG_MS });
    const others = [BOB, undefined].map((authorization) =>
      own.fetch(path, { headers: authorization === undefined ? {} : { authorization } }),
    );
    await vi.waitFor(() => expect(relay.count('/chunk-tables/')).toBe(1), { timeout: LONG_MS });
    held.resolve();
    for (const answer of await Promise.all(others)) {
      expect(answer.status).toBe(401);
      await answer.text();
    }
    expect((await bytesOf(await alices)).length).toBe(600_000);
  } finally {
    await own.remove();
    await relay.stop();
  }
});

test('tokens are had by way of the mirror; the credentials behind them are good at each proxy, and for later reads', async () => {
  const refused = await get('private/c/manifests/1');
  const challenge = refused.headers.get('www-authenticate') ?? '';
  expect(await errorOf(refused)).toMatchObject({ status: 401, code: 'UNAUTHORIZED' });
  const bearer = await tokenFor(ALICE, challenge);
  expect((await get('private/c/manifests/1', bearer)).status).toBe(200);
  expect((await get('private/c/manifests/1', await tokenFor(undefined, challenge))).status).toBe(401);
  expect((await get('private/c/manifests/1', await tokenFor(BOB, challenge))).status).toBe(401);
  const [known] = await mirror.credentials.identities(
    { registry: 'reg.example', repository: 'private/c' },
    'proxy.example',
    undefined,
  );
  expect(await known?.provider?.current(undefined)).toMatchObject({ username: 'alice', password: 'secret' });
  await proxies[0]!.stop();
  try {
    expect((await get('private/c/manifests/1', bearer)).status).toBe(200);
    expect(await bytesOf(await get(`private/c/blobs/${image.layers[0]}`, bearer))).toEqual(LAYER);
  } finally {
    await proxies[0]!.start();
  }
});

test('by a name that was made to lead here (DNS rebinding) nothing is answered', async () => {
  for (const [host, status] of [
    ['evil.example', 403],
    ['127.0.0.1.evil.example', 403],
    ['localhost', 401],
    ['127.0.0.1', 401],
  ] as const) {
    const { port } = mirror.server.url;
    const answered = await new Promise<number>((resolve, reject) => {
      const headers = { host: `${host}:${port}` };
      const asked = httpRequest({ host: '127.0.0.1', port, path: '/v2/', headers }, (response) => {
        response.resume().once('end', () => resolve(response.statusCode ?? 0));
      });
      asked.once('error', reject).end();
    });
    expect(answered, host).toBe(status);
  }
});

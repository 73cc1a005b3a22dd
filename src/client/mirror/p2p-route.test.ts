import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import { TestMirror } from '../../../test/support/test-mirror.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { basicAuthorization } from '../../oci/credentials.ts';
import type { Digest } from '../../oci/digest.ts';

const ALICE = basicAuthorization({ username: 'alice', password: 'secret' });
const BOB = basicAuthorization({ username: 'bob', password: 'secret' });

let upstream: FakeRegistry;
let storage: FakeRegistry;
let proxy: TestProxy;
let relay: FaultyRelay;
let mirror: TestMirror;
let blob: Buffer;
let digest: Digest;
let seed = 7301;

beforeAll(async () => {
  upstream = await FakeRegistry.start();
  upstream.intercept = (request, response) => {
    if (!request.url?.startsWith('/v2/private/') || request.headers.authorization === ALICE) return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="upstream"' }).end();
    return true;
  };
  storage = await FakeRegistry.start();
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'passthrough' },
    conversion: { enabled: false },
  });
});

afterAll(async () => {
  await proxy?.remove();
  await storage?.stop();
  await upstream?.stop();
});

beforeEach(async () => {
  blob = randomBytes(1_000_000, seed++);
  digest = upstream.putBlob(blob);
  relay = await FaultyRelay.start(proxy.url);
  mirror = await TestMirror.start([relay.url], { directHosts: [new URL(storage.url).host] });
});

afterEach(async () => {
  await mirror.remove();
  await relay.stop();
});

/** As stock overlaybd asks: the URL that it would have asked, behind the address of its P2P proxy. */
function read(url: string, start: number, end: number, headers: Record<string, string> = {}) {
  return mirror.fetch(`/dadip2p/${url}`, { headers: { range: `bytes=${start}-${end - 1}`, ...headers } });
}

const registryUrl = (repository = 'lib/a', host = 'reg.example') =>
  `https://${host}/v2/${repository}/blobs/${digest}`;

/** Has the proxy get the blob, and waits until it has it whole. */
async function storeAtProxy(repository = 'lib/a', headers = {}): Promise<void> {
  const path = `/dadi/v1/chunk-tables/${digest}?repository=${repository}&ns=reg.example&fetch=1&wait=20`;
  expect((await proxy.fetch(path, { headers })).status).toBe(200);
}

test('parts of any place and length are right, and what was read once is read from the cache by whatever URL', async () => {
  await storeAtProxy();
  for (const [start, end] of [
    [0, 1],
    [0, 512],
    [262_100, 262_200],
    [700_001, 765_000],
    [999_999, 1_000_000],
  ] as const) {
    const answer = await read(registryUrl(), start, end);
    expect(answer.status).toBe(206);
    expect(answer.headers.get('content-range')).toBe(`bytes ${start}-${end - 1}/1000000`);
    expect((await bytesOf(answer)).equals(blob.subarray(start, end))).toBe(true);
  }
  const before = relay.requests.length;
  const proxyHost = new URL(relay.url).host;
  for (const url of [
    `${registryUrl()}?signature=a&expires=1`,
    `http://${proxyHost}/v2/lib/a/blobs/${digest}?ns=reg.example`,
    `http://${proxyHost}/v2/reg.example/lib/a/blobs/${digest}`,
  ]) {
    const answer = await read(url, 700_001, 765_000);
    expect((await bytesOf(answer)).equals(blob.subarray(700_001, 765_000)), url).toBe(true);
  }
  expect(relay.requests).toHaveLength(before);
});

test('a blob that the proxy has to fetch first can be read at once, without all of it coming to this host', async () => {
  const answer = await read(registryUrl(), 10, 20);
  expect((await bytesOf(answer)).equals(blob.subarray(10, 20))).toBe(true);
  await storeAtProxy();
  await bytesOf(await read(registryUrl(), 10, 20));
  expect(mirror.server.stats.bytesFetched).toBe(262_144);
});

test('who may read is decided by the authorization that the client sends, of what is in the cache too', async () => {
  await storeAtProxy('private/a', { authorization: ALICE });
  const url = registryUrl('private/a');
  expect((await bytesOf(await read(url, 0, 10, { authorization: ALICE }))).length).toBe(10);
  expect((await read(url, 0, 10)).status).toBe(401);
  expect((await read(url, 0, 10, { authorization: BOB })).status).toBe(401);
});

test('nothing but blobs, and no host that is not named, is ever asked', async () => {
  const asked = [upstream, storage].map(({ requests }) => requests.length);
  const refused = async (url: string) => (await errorOf(await read(url, 0, 10))).status;
  const other = new URL(upstream.url).host;
  expect(await refused(`${upstream.url}/v2/lib/a/manifests/1`)).toBe(400);
  expect(await refused(`${storage.url}/secret`)).toBe(400);
  expect(await refused(`file:///etc/${digest}`)).toBe(400);
  expect(await refused(`http://user:password@${other}/v2/lib/a/blobs/${digest}`)).toBe(400);
  // On storage of a registry nobody knows whose blob it is.
  expect(await refused(`${upstream.url}/sha256/${digest.slice(7, 9)}/${digest.slice(7)}/data`)).toBe(403);
  // No proxy has such a registry.
  expect(await refused(`http://${other}/v2/lib/a/blobs/${digest}`)).toBeGreaterThanOrEqual(400);
  expect([upstream, storage].map(({ requests }) => requests.length)).toEqual(asked);
});

test('while no proxy answers, hosts that are named give their blobs themselves, to whom they let in', async () => {
  const { host } = new URL(storage.url);
  storage.putBlob(blob);
  storage.intercept = ({ headers, url = '' }, response) => {
    const isSigned = url.includes('?signature=a%2Bb%20c');
    if (headers.authorization === ALICE) return false;
    response.writeHead(isSigned ? 206 : 401).end(isSigned ? 'signed' : '');
    return true;
  };
  await relay.stop();
  const url = registryUrl('lib/a', host).replace('https', 'http');
  const answer = await read(url, 500, 600, { authorization: ALICE });
  expect((await bytesOf(answer)).equals(blob.subarray(500, 600))).toBe(true);
  expect((await read(url, 500, 600)).status).toBe(401);
  const signed = `${storage.url}/blobs/sha256/${digest.slice(7, 9)}/${digest.slice(7)}/data?signature=a%2Bb%20c`;
  expect(await (await read(signed, 0, 6)).text()).toBe('signed');
  expect((await errorOf(await read(registryUrl(), 0, 10))).status).toBe(503);
});

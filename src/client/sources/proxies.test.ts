import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { readAll } from '../../../test/support/byte-sources.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import { chainIds } from '../../oci/chain-id.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import { newReadStats } from '../chunks/read-stats.ts';
import { openDevice } from '../image/device.ts';
import type { LazyChain } from './lazy-chain.ts';
import { Proxies } from './proxies.ts';
import { SourceCredentials } from './source-credentials.ts';

useProxiedRegistry({
  tagTtlMs: 60_000,
  conversion: { concurrency: 2, exclude: ['reg.example/plain/*'] },
  // All that nobody uses goes when it is cleaned up.
  cache: { maxAgeMs: 1, spareMs: 0, intervalMs: 3_600_000, notFoundTtlMs: 0 },
});

let directory: string;
let cache: ChunkCache;
let proxies: Proxies;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-sources-'));
  cache = await ChunkCache.open(join(directory, 'cache'));
  proxies = proxiesAt(proxy.url);
});

afterEach(async () => {
  await proxies.close();
  await cache.close();
  rmSync(directory, { recursive: true });
});

function proxiesAt(...urls: readonly string[]): Proxies {
  const credentials = new SourceCredentials({ file: null, dockerConfig: null });
  return new Proxies({ urls: urls.map((url) => new URL(url)), credentials });
}

const layer = (name: string) => Buffer.concat([tarMember({ path: name }, name.repeat(1000)), END_BLOCKS]);
const LAYERS = [layer('one'), layer('two')];
/** Layers of the fake registry's images are plain tars. */
const CHAINS = chainIds(LAYERS.map((bytes) => digestOf(bytes))) as [Digest, Digest];

const imageOf = (manifestDigest: Digest, repository = 'lib/a') => ({
  registry: 'reg.example',
  repository,
  manifestDigest,
});

async function convertedChain(manifestDigest: Digest, chainId: Digest): Promise<LazyChain> {
  const answer = await proxies.find(chainId, imageOf(manifestDigest), { waitMs: 60_000 });
  if (answer.kind !== 'converted') throw new Error(JSON.stringify(answer));
  return answer.chain;
}

test('a chain is its layers from the lowest up, waited for while the proxy converts them', async () => {
  const image = upstream.putImage(LAYERS, '1');
  const upper = await convertedChain(image.digest, CHAINS[1]);
  expect(upper).toMatchObject({ chainId: CHAINS[1], registry: 'reg.example', repository: 'lib/a' });
  const lower = await convertedChain(image.digest, CHAINS[0]);
  expect(upper.layers).toHaveLength(2);
  expect(lower.layers).toEqual(upper.layers.slice(0, 1));
});

test('all chains of an image that is converted are known by one request', async () => {
  const image = upstream.putImage(LAYERS, '1');
  await convertedChain(image.digest, CHAINS[1]);
  const relay = await FaultyRelay.start(proxy.url);
  await proxies.close();
  proxies = proxiesAt(relay.url);
  await Promise.all(CHAINS.map((chainId) => convertedChain(image.digest, chainId)));
  await convertedChain(image.digest, CHAINS[0]);
  expect(relay.requests).toHaveLength(1);
  await relay.stop();
});

test('a chain opens as a device', async () => {
  const image = upstream.putImage(LAYERS, '1');
  const chain = await convertedChain(image.digest, CHAINS[1]);
  const kept = JSON.parse(JSON.stringify(chain)) as LazyChain;
  const opened = await openDevice(proxies.image(kept), {
    cache,
  });
  expect(opened.fsType).toBe('erofs');
  const device = await readAll(opened.device);
  expect(device.includes('two'.repeat(1000))).toBe(true);
  await opened.close();
});

test.each([
  ['alone', []],
  ['while another one is away', ['http://127.0.0.1:1']],
])('what a proxy has thrown away it converts again for those who read it, %s', async (_, away) => {
  const image = upstream.putImage(LAYERS, '1');
  const chain = await convertedChain(image.digest, CHAINS[1]);
  await proxies.close();
  proxies = proxiesAt(proxy.url, ...away);
  const [lowest] = chain.layers;
  const source = await proxies.openLayer(lowest!, chain, { cache, stats: newReadStats() });
  await vi.waitFor(
    async () => {
      expect((await proxy.adminFetch('/dadi/v1/gc', { method: 'POST' })).status).toBe(200);
      expect((await proxy.fetch(`/v2/reg.example/lib/a/blobs/${lowest!.digest}`)).status).toBe(404);
    },
    { timeout: 30_000 },
  );
  expect(digestOf(await readAll(source))).toBe(lowest!.digest);
  await source.close();
});

test('what is not converted is told with its reason, what is on its way after the wait', async () => {
  const image = upstream.putImage(LAYERS, '1');
  const left = await proxies.find(CHAINS[0], imageOf(image.digest, 'plain/a'), { waitMs: 60_000 });
  expect(left).toEqual({ kind: 'unavailable', reason: expect.stringContaining('reg.example/plain/*') });
  // The upper layer does not come.
  upstream.intercept = ({ url = '' }) => url.endsWith(image.layers[1]!);
  const other = upstream.putImage([...LAYERS, layer('three')], '2');
  const pending = await proxies.find(digestOf('none'), imageOf(other.digest), { waitMs: 0 });
  expect(pending.kind).toBe('pending');
});

test('a chain that the image does not have, and an image that nobody has, are unavailable', async () => {
  const image = upstream.putImage(LAYERS, '1');
  await convertedChain(image.digest, CHAINS[1]);
  const none = await proxies.find(digestOf('none'), imageOf(image.digest), { waitMs: 60_000 });
  expect(none.kind).toBe('unavailable');
  const unknown = await proxies.find(CHAINS[0], imageOf(digestOf('none')), { waitMs: 60_000 });
  expect(unknown).toEqual({ kind: 'unavailable', reason: expect.stringContaining('404') });
});

/** A proxy that answers so about any image. */
function proxyThatSays(body: string): Proxies {
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.startsWith('/dadi/v1/images/')) return false;
    response.end(body);
    return true;
  };
  return proxiesAt(upstream.url);
}

test('a chain is none without all layers below it', async () => {
  const converted = { digest: digestOf('blob'), size: 1, chunkTable: digestOf('table') };
  const ids = ['lowest', 'middle', 'top'].map((name) => digestOf(name));
  const chains = ids.map((chainId, at) => ({ chainId, converted: at === 1 ? null : converted }));
  await proxies.close();
  proxies = proxyThatSays(JSON.stringify({ state: 'failed', error: 'broken', chains }));
  const found = ids.map((chainId) => proxies.find(chainId, imageOf(digestOf('any')), { waitMs: 0 }));
  expect(await Promise.all(found)).toMatchObject([
    { kind: 'converted', chain: { layers: [{ sizeBytes: 1 }] } },
    { kind: 'unavailable', reason: 'broken' },
    { kind: 'unavailable', reason: 'broken' },
  ]);
});

test('what answers otherwise than dadi proxies do is told from one', async () => {
  await proxies.close();
  proxies = proxyThatSays('<html>');
  const answer = await proxies.find(CHAINS[0], imageOf(digestOf('any')), { waitMs: 0 });
  expect(answer).toEqual({ kind: 'unavailable', reason: expect.stringContaining('not one of a dadi proxy') });
});

test('a proxy that answers at once that a blob is on its way is not asked without a pause', async () => {
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.startsWith('/dadi/v1/chunk-tables/')) return false;
    response.writeHead(202).end('{}');
    return true;
  };
  await proxies.close();
  proxies = proxiesAt(upstream.url);
  const layer = { digest: digestOf('blob'), sizeBytes: 1, chunkTableDigest: digestOf('table') };
  const chain = { registry: 'reg.example', repository: 'lib/a', chainId: CHAINS[0] };
  const access = { cache, stats: newReadStats(), readTimeoutMs: 700 };
  await expect(proxies.openLayer(layer, chain, access)).rejects.toThrow();
  const asked = upstream.requests.filter(({ path }) => path.startsWith('/dadi/v1/chunk-tables/'));
  expect(asked.length).toBeGreaterThan(0);
  expect(asked.length).toBeLessThan(5);
});

test('without a proxy that answers nothing is found, and nothing fails', async () => {
  await proxies.close();
  await proxy.stop();
  for (const urls of [['http://127.0.0.1:1'], []]) {
    proxies = proxiesAt(...urls);
    const answer = await proxies.find(CHAINS[0], imageOf(digestOf('any')), { waitMs: 60_000 });
    expect(answer).toEqual({ kind: 'unavailable', reason: expect.stringMatching(/no answer|no dadi proxy/) });
  }
});

test('a search that is given up rejects with the reason', async () => {
  const image = upstream.putImage(LAYERS, '1');
  upstream.intercept = ({ url = '' }) => url.endsWith(image.layers[0]!);
  const reason = new Error('enough');
  const controller = new AbortController();
  const search = proxies.find(CHAINS[0], imageOf(image.digest), {
    waitMs: 60_000,
    signal: controller.signal,
  });
  controller.abort(reason);
  await expect(search).rejects.toBe(reason);
});

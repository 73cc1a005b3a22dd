import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import Database from 'better-sqlite3';
import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import { bytesOf } from '../../../test/support/test-proxy.ts';
import { RequestNotes } from '../../oci/serving/answer.ts';
import { Metrics } from './metrics.ts';

useProxiedRegistry({ tagTtlMs: 60_000 });

const DOCS = resolve(import.meta.dirname, '../../../docs/proxy.md');

async function scrape(): Promise<string> {
  const response = await proxy.adminFetch('/metrics');
  expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  return response.text();
}

/** The value of a sample, 0 if there is none. */
function valueIn(text: string, sample: string): number {
  const line = text.split('\n').find((each) => each.startsWith(`${sample} `));
  return Number(line?.split(' ').at(-1) ?? 0);
}

async function upstreamsShown(): Promise<object[]> {
  const status = await (await proxy.adminFetch('/dadi/v1/status')).json();
  return (status as { upstreams: object[] }).upstreams;
}

/** Metrics of a request are counted when its connection is done with it. */
function eventually(sample: string, expected: number | 'positive'): Promise<void> {
  return vi.waitFor(
    async () => {
      const value = valueIn(await scrape(), sample);
      if (expected === 'positive') expect(value, sample).toBeGreaterThan(0);
      else expect(value, sample).toBe(expected);
    },
    { timeout: 30_000 },
  );
}

test('pulls, bytes by source, hits and misses are counted, without a label for every image', async () => {
  const layer = randomBytes(300_000);
  const image = upstream.putImage([layer], '1');
  for (const _round of [1, 2]) {
    await bytesOf(await proxy.fetch('/v2/lib/a/manifests/1'));
    await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`));
    // Its bytes are sent before it is kept.
    await eventually('dadi_proxy_running_downloads', 0);
  }
  await eventually('dadi_proxy_pulls_total{upstream="reg.example"}', 2);
  await eventually('dadi_proxy_cache_requests_total{kind="manifest",result="miss"}', 1);
  await eventually('dadi_proxy_cache_requests_total{kind="manifest",result="hit"}', 1);
  await eventually('dadi_proxy_cache_requests_total{kind="blob",result="miss"}', 1);
  await eventually('dadi_proxy_cache_requests_total{kind="blob",result="hit"}', 1);
  await eventually('dadi_proxy_http_requests_total{kind="blob",method="GET",status="2xx"}', 2);
  await proxy.fetch('/v2/lib/a/manifests/none');
  await eventually('dadi_proxy_http_requests_total{kind="manifest",method="GET",status="4xx"}', 1);
  const text = await scrape();
  expect(
    valueIn(text, 'dadi_proxy_upstream_requests_total{upstream="reg.example",outcome="ok"}'),
  ).toBeGreaterThanOrEqual(3);
  expect(
    valueIn(text, 'dadi_proxy_upstream_requests_total{upstream="reg.example",outcome="not_found"}'),
  ).toBe(1);
  const received = valueIn(text, 'dadi_proxy_upstream_received_bytes_total{upstream="reg.example"}');
  expect(received).toBeGreaterThanOrEqual(layer.length + image.bytes.length);
  expect(received).toBeLessThan(layer.length + image.bytes.length + 1000);
  for (const source of ['fill', 'cache']) {
    expect(valueIn(text, `dadi_proxy_sent_bytes_total{source="${source}"}`)).toBeGreaterThan(layer.length);
  }
  expect(text).not.toContain('lib/a');
  expect(text).not.toContain('sha256');
});

test('an upstream that only a request names is no label', async () => {
  const metrics = new Metrics();
  metrics.observer('known.example');
  for (const upstream of ['known.example', 'a.example', 'b.example']) {
    const notes = { ...new RequestNotes('manifest'), upstream, source: 'cache' as const };
    metrics.requestEnded({ method: 'GET', status: 200, sentBytes: 1, durationMs: 1, notes });
  }
  const text = String((await metrics.answer()).body);
  expect(valueIn(text, 'dadi_proxy_pulls_total{upstream="known.example"}')).toBe(1);
  expect(valueIn(text, 'dadi_proxy_pulls_total{upstream="(allowed)"}')).toBe(2);
});

test('conversions are counted by outcome, and the queue by state', async () => {
  const good = Buffer.concat([tarMember({ path: 'a' }, 'a'), END_BLOCKS]);
  upstream.putImage([good], 'good');
  upstream.putImage([Buffer.alloc(1024, 'not a tar')], 'bad');
  for (const tag of ['good', 'bad']) await bytesOf(await proxy.fetch(`/v2/lib/a/manifests/${tag}`));
  await eventually('dadi_proxy_conversions_ended_total{outcome="done"}', 1);
  await eventually('dadi_proxy_conversions_ended_total{outcome="failed"}', 1);
  await eventually('dadi_proxy_conversions{state="done"}', 1);
  await eventually('dadi_proxy_conversions{state="failed"}', 1);
  await eventually('dadi_proxy_converted_layer_bytes_total', good.length);
  await eventually('dadi_proxy_store_free_bytes', 'positive');
});

test('questions to the catalog that fail are counted, and tell readiness', async () => {
  const database = new Database(join(proxy.directory, 'catalog.db'));
  database.exec('ALTER TABLE manifests RENAME TO away');
  database.close();
  await vi.waitFor(
    async () => {
      const ready = await proxy.adminFetch('/readyz');
      expect(ready.status).toBe(503);
      expect(await ready.json()).toMatchObject({
        checks: expect.arrayContaining([expect.objectContaining({ name: 'catalog', isOk: false })]),
      });
    },
    { timeout: 30_000 },
  );
  await eventually('dadi_proxy_catalog_errors_total', 'positive');
});

test('how much may still be pulled from an upstream is shown as it last said, and not before', async () => {
  upstream.putImage([Buffer.from('x')], '1');
  expect(await upstreamsShown()).toMatchObject([{ quota: null }]);
  expect(await scrape()).not.toContain('dadi_proxy_upstream_quota_limit{');
  upstream.intercept = (_request, response) => {
    response.setHeader('RateLimit-Limit', '100;w=21600').setHeader('RateLimit-Remaining', '76;w=21600');
    return false;
  };
  await bytesOf(await proxy.fetch('/v2/lib/a/manifests/1'));
  await eventually('dadi_proxy_upstream_quota_limit{upstream="reg.example"}', 100);
  await eventually('dadi_proxy_upstream_quota_remaining{upstream="reg.example"}', 76);
  const observedAt = expect.stringMatching(/^\d{4}-.*Z$/);
  const quota = { limit: 100, remaining: 76, windowSeconds: 21_600, observedAt };
  expect(await upstreamsShown()).toEqual([
    { name: 'reg.example', state: 'ok', reason: null, quota, mirrors: [] },
  ]);
});

test('an upstream that asked for a pause is shown so', async () => {
  upstream.intercept = (_request, response) => {
    response.writeHead(429, { 'retry-after': '3600' }).end();
    return true;
  };
  expect((await proxy.fetch('/v2/lib/a/manifests/1')).status).toBe(503);
  const reason = expect.stringMatching(/again in \d+ s/);
  expect(await upstreamsShown()).toMatchObject([{ state: 'paused', reason }]);
});

test('the state of the proxy is one answer for scripts', async () => {
  upstream.putImage([Buffer.from('x')], '1');
  await bytesOf(await proxy.fetch('/v2/lib/a/manifests/1'));
  await vi.waitFor(
    async () => {
      const status = await (await proxy.adminFetch('/dadi/v1/status')).json();
      expect(status).toMatchObject({
        version: 'test',
        isReady: true,
        upstreams: [{ name: 'reg.example', state: 'ok', reason: null, quota: null, mirrors: [] }],
        store: { freeBytes: expect.any(Number) },
        cache: { hits: 0, misses: 1 },
        conversions: { done: expect.any(Number), failed: expect.any(Number) },
        pulls: [{ upstream: 'reg.example', repository: 'lib/a', reference: '1', source: 'upstream' }],
      });
    },
    { timeout: 30_000 },
  );
});

test('the documentation lists every metric with its labels, and no other', async () => {
  const text = await scrape();
  const served = [...text.matchAll(/^# TYPE (dadi_proxy_\S+) (\S+)$/gm)].map(([, name, type]) => [
    name,
    type,
  ]);
  const listed = [...readFileSync(DOCS, 'utf8').matchAll(/^\| `(dadi_proxy_\w+)`\s*\| (\w+)/gm)];
  expect(listed.map(([, name, type]) => [name, type]).toSorted()).toEqual(served.toSorted());
  for (const [, name, type] of text.matchAll(/^# TYPE (dadi_proxy_\S+) (\S+)$/gm)) {
    expect(name?.endsWith('_total'), name).toBe(type === 'counter');
  }
});

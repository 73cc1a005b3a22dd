import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../test/support/proxied-registry.ts';
import { errorOf, TestProxy } from '../../test/support/test-proxy.ts';
import { digestOf } from '../oci/digest.ts';

useProxiedRegistry();

interface Ready {
  readonly status: string;
  readonly checks: readonly { readonly name: string; readonly isOk: boolean; readonly message: string }[];
}

async function readiness(): Promise<{ status: number; body: Ready }> {
  const response = await proxy.adminFetch('/readyz');
  return { status: response.status, body: (await response.json()) as Ready };
}

test('clients cannot reach what is for operators, and operators have no registry', async () => {
  for (const path of ['/dadi/v1/conversions', '/metrics', '/ui', '/dadi/v1/status']) {
    expect(await errorOf(await proxy.fetch(path)), path).toMatchObject({ status: 404, code: 'NAME_UNKNOWN' });
  }
  const retry = `/dadi/v1/conversions/${digestOf('x')}/retry`;
  expect((await proxy.fetch(retry, { method: 'POST' })).status).toBe(404);
  expect((await proxy.adminFetch('/v2/')).status).toBe(404);
  expect((await proxy.adminFetch('/dadi/v1/conversions')).status).toBe(200);
});

test('both listeners say that the proxy is alive and ready', async () => {
  for (const url of [proxy.url, proxy.adminUrl]) {
    expect(await (await fetch(`${url}/healthz`)).json()).toEqual({ status: 'ok' });
    const ready = await fetch(`${url}/readyz`);
    expect(ready.status).toBe(200);
    expect(await ready.json()).toMatchObject({ status: 'ready' });
  }
});

test('a proxy whose store cannot be written is not ready, says why, and is ready again afterwards', async () => {
  const ingest = join(proxy.directory, 'ingest');
  renameSync(ingest, `${ingest}.away`);
  await vi.waitFor(
    async () => {
      const { status, body } = await readiness();
      expect(status).toBe(503);
      expect(body.checks).toContainEqual({
        name: 'store',
        isOk: false,
        message: expect.stringContaining('ENOENT'),
      });
      expect(body.checks).toContainEqual({ name: 'catalog', isOk: true, message: null });
    },
    { timeout: 30_000 },
  );
  renameSync(`${ingest}.away`, ingest);
  await vi.waitFor(async () => expect((await readiness()).status).toBe(200), { timeout: 30_000 });
  expect(proxy.unfinished()).toEqual([]);
});

test('without a listener for operators there is none', async () => {
  const alone = await TestProxy.start({ upstreams: [{ name: 'a.io', url: upstream.url }], admin: null });
  expect(() => alone.adminUrl).toThrow();
  expect((await alone.fetch('/healthz')).status).toBe(200);
  await alone.remove();
});

test('a page of another site cannot have a browser change anything', async () => {
  const retry = (origin: string) =>
    proxy.adminFetch(`/dadi/v1/conversions/${digestOf('x')}/retry`, { method: 'POST', headers: { origin } });
  expect(await errorOf(await retry('https://evil.example'))).toMatchObject({ status: 403, code: 'DENIED' });
  expect(await errorOf(await retry('null'))).toMatchObject({ status: 403 });
  expect(await errorOf(await retry(proxy.adminUrl))).toMatchObject({ status: 404 });
});

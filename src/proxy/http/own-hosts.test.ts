import { request } from 'node:http';
import { expect, test } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { bytesOf } from '../../../test/support/test-proxy.ts';

useProxiedRegistry({
  conversion: { enabled: false },
  admin: { listen: '127.0.0.1:0', hosts: ['dadi.example'] },
});

/** As a browser asks for a page of that name: it and what it asks are then of one origin. */
function ask(method: string, path: string, name: string): Promise<number> {
  const url = new URL(path, proxy.adminUrl);
  const host = `${name}:${url.port}`;
  return new Promise((resolve, reject) => {
    const asked = request(url, { method, headers: { host, origin: `http://${host}` } }, (response) => {
      response.resume().once('end', () => resolve(response.statusCode ?? 0));
    });
    asked.once('error', reject).end();
  });
}

test('a page whose name was made to lead here (DNS rebinding) sees nothing and removes nothing', async () => {
  const image = upstream.putImage([Buffer.from('a layer')], '1');
  await bytesOf(await proxy.fetch(`/v2/lib/a/manifests/1`));
  await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`));
  const removal = `/dadi/v1/cache?blob=${image.layers[0]}`;
  for (const name of ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', 'evil.example.']) {
    expect(await ask('DELETE', removal, name), name).toBe(403);
    for (const path of ['/ui', '/dadi/v1/status', '/dadi/v1/cache', '/dadi/v1/conversions']) {
      expect(await ask('GET', path, name), `${name} ${path}`).toBe(403);
    }
  }
  expect(await ask('DELETE', removal, 'dadi.example')).toBe(200);
});

test('operators ask by address, by a name without a dot, or by one that the configuration gives', async () => {
  for (const name of ['127.0.0.1', '[::1]', 'localhost', 'dadi-proxy', 'dadi.example', 'DADI.example.']) {
    expect(await ask('GET', '/dadi/v1/status', name), name).toBe(200);
  }
});

test('what watches it may come by any name', async () => {
  for (const path of ['/metrics', '/healthz', '/readyz']) {
    expect(await ask('GET', path, 'dadi.monitoring.svc.example'), path).toBe(200);
  }
});

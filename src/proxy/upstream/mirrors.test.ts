import { randomBytes } from 'node:crypto';
import { afterEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { brokenBody, bytesOf, TestProxy } from '../../../test/support/test-proxy.ts';

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

test('a mirror that sends another blob breaks one answer, and is passed over for the next', async () => {
  const [registry, mirror] = [await FakeRegistry.start(), await FakeRegistry.start()];
  cleanups.push(
    () => registry.stop(),
    () => mirror.stop(),
  );
  const blob = randomBytes(300_000);
  const digest = registry.putBlob(blob);
  mirror.putBlob(randomBytes(300_000), digest);
  const proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: registry.url, mirrors: [{ url: mirror.url }] }],
    conversion: { enabled: false },
  });
  cleanups.push(() => proxy.remove());
  const path = `/v2/lib/a/blobs/${digest}`;
  expect((await brokenBody(await proxy.fetch(path))).length).toBeLessThan(blob.length);
  await vi.waitFor(async () => expect((await bytesOf(await proxy.fetch(path))).equals(blob)).toBe(true), {
    timeout: 20_000,
  });
  expect(mirror.count('GET', digest)).toBe(1);
  expect(registry.count('GET', digest)).toBe(1);
});

test('a mirror that is not there is shown to operators as resting, and its registry as well', async () => {
  const [registry, mirror] = [await FakeRegistry.start(), await FakeRegistry.start()];
  cleanups.push(() => registry.stop());
  await mirror.stop();
  registry.putImage([Buffer.from('x')], '1');
  const proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: registry.url, mirrors: [{ url: mirror.url }] }],
    conversion: { enabled: false },
  });
  cleanups.push(() => proxy.remove());
  expect((await proxy.fetch('/v2/lib/a/manifests/1')).status).toBe(200);
  const status = await (await proxy.adminFetch('/dadi/v1/status')).json();
  const rests = { host: new URL(mirror.url).host, state: 'resting', reason: expect.any(String), quota: null };
  expect(status).toMatchObject({ upstreams: [{ name: 'reg.example', state: 'ok', mirrors: [rests] }] });
});

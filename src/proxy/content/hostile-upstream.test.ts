import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { bytesOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../../oci/media-types.ts';

const LAYER = randomBytes(1024 * 1024);

let good: FakeRegistry;
let bad: FakeRegistry;
let proxy: TestProxy;

beforeEach(async () => {
  [good, bad] = [await FakeRegistry.start(), await FakeRegistry.start()];
  proxy = await TestProxy.start({
    upstreams: [
      { name: 'good.example', url: good.url },
      { name: 'bad.example', url: bad.url },
    ],
    conversion: { enabled: false },
  });
});

afterEach(async () => {
  await proxy.remove();
  await good.stop();
  await bad.stop();
});

test('an upstream that sends a blob without end holds up no reader of another upstream', async () => {
  const digest = good.putBlob(LAYER);
  let asked = false;
  bad.intercept = (_request, response) => {
    asked = true;
    // The first half, and then nothing more.
    response.writeHead(200, { 'content-length': LAYER.length }).write(LAYER.subarray(0, LAYER.length / 2));
    return true;
  };
  const gone = new AbortController();
  const slow = proxy.fetch(`/v2/bad.example/a/blobs/${digest}`, { signal: gone.signal });
  slow.catch(() => {});
  await vi.waitFor(() => expect(asked).toBe(true), 10_000);
  const given = await proxy.fetch(`/v2/good.example/a/blobs/${digest}`);
  expect((await bytesOf(given)).equals(LAYER)).toBe(true);
  gone.abort();
});

test('what one upstream calls a manifest is not what it is for another one’s readers', async () => {
  const image = good.putImage([LAYER], '1');
  for (const type of ['text/html', OCI_INDEX]) {
    await proxy.remove();
    await bad.stop();
    bad = await FakeRegistry.start();
    bad.putManifest(image.bytes, type, '1');
    const config = { name: 'bad.example', url: bad.url };
    proxy = await TestProxy.start({
      upstreams: [{ name: 'good.example', url: good.url }, config],
      conversion: { enabled: false },
    });
    await bytesOf(await proxy.fetch('/v2/bad.example/a/manifests/1'));
    const given = await proxy.fetch(`/v2/good.example/a/manifests/${image.digest}`);
    expect(given.headers.get('content-type'), type).toBe(OCI_MANIFEST);
  }
});

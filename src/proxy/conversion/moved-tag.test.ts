import { expect, test } from 'vitest';
import { ended, layerOf } from '../../../test/support/conversions.ts';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { bytesOf, errorOf } from '../../../test/support/test-proxy.ts';
import { type ImageManifest, parseManifest } from '../../oci/manifest.ts';

useProxiedRegistry({ tagTtlMs: 0, conversion: { concurrency: 2 } });

async function imageAt(path: string): Promise<ImageManifest> {
  const response = await proxy.fetch(path);
  expect(response.status).toBe(200);
  return parseManifest(await bytesOf(response), response.headers.get('content-type')) as ImageManifest;
}

test('a tag that moves means the new image at once, converted or not; the old one is there by its digest', async () => {
  const old = upstream.putImage([layerOf('old')], '1');
  const held = Promise.withResolvers<void>();
  upstream.intercept = ({ url = '', method }, response) => {
    if (method !== 'GET' || !url.endsWith(old.layers[0]!)) return false;
    const bytes = layerOf('old');
    void held.promise.then(() => response.writeHead(200, { 'content-length': bytes.length }).end(bytes));
    return true;
  };
  await proxy.fetch('/v2/lib/a/manifests/1');
  const fresh = upstream.putImage([layerOf('fresh')], '1');
  const early = await proxy.fetch('/v2/lib/a/manifests/1_obd');
  expect(await errorOf(early)).toMatchObject({
    status: 404,
    message: expect.stringContaining(fresh.digest),
  });
  await ended(proxy, fresh.digest);
  expect((await imageAt('/v2/lib/a/manifests/1_obd')).subject?.digest).toBe(fresh.digest);
  held.resolve();
  // It goes on though no tag names it any more: hosts may have pinned it.
  const { converted: oldMade } = await ended(proxy, old.digest);
  await proxy.fetch(`/v2/lib/a/referrers/${old.digest}`);
  expect((await proxy.fetch(`/v2/lib/a/manifests/${oldMade?.digest}`)).status).toBe(200);
}, 60_000);

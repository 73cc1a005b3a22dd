import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../test/support/tar-blocks.ts';
import { bytesOf, errorOf } from '../../test/support/test-proxy.ts';
import type { Digest } from '../oci/digest.ts';
import { type ImageManifest, parseManifest } from '../oci/manifest.ts';
import type { ConversionStatus } from './conversion-status.ts';

useProxiedRegistry({ tagTtlMs: 0, conversion: { concurrency: 2 } });

function layer(name: string, bytes = 100_000): Buffer {
  return Buffer.concat([tarMember({ path: name }, Buffer.alloc(bytes, name)), END_BLOCKS]);
}

async function statusOf(digest: Digest): Promise<ConversionStatus> {
  return (await (await proxy.fetch(`/dadi/v1/conversions/${digest}`)).json()) as ConversionStatus;
}

async function converted(digest: Digest): Promise<ConversionStatus> {
  return vi.waitFor(
    async () => {
      const status = await statusOf(digest);
      expect(['done', 'failed']).toContain(status.state);
      return status;
    },
    { timeout: 30_000, interval: 50 },
  );
}

async function imageAt(path: string): Promise<ImageManifest> {
  const response = await proxy.fetch(path);
  expect(response.status).toBe(200);
  return parseManifest(await bytesOf(response), response.headers.get('content-type')) as ImageManifest;
}

test('a tag that moves means the new image at once, converted or not; the old one is there by its digest', async () => {
  const old = upstream.putImage([layer('old')], '1');
  const held = Promise.withResolvers<void>();
  upstream.intercept = ({ url = '', method }, response) => {
    if (method !== 'GET' || !url.endsWith(old.layers[0]!)) return false;
    const bytes = layer('old');
    void held.promise.then(() => response.writeHead(200, { 'content-length': bytes.length }).end(bytes));
    return true;
  };
  await proxy.fetch('/v2/lib/a/manifests/1');
  const fresh = upstream.putImage([layer('fresh')], '1');
  const early = await proxy.fetch('/v2/lib/a/manifests/1_obd');
  expect(await errorOf(early)).toMatchObject({
    status: 404,
    message: expect.stringContaining(fresh.digest),
  });
  await converted(fresh.digest);
  expect((await imageAt('/v2/lib/a/manifests/1_obd')).subject?.digest).toBe(fresh.digest);
  held.resolve();
  // It goes on though no tag names it any more: hosts may have pinned it.
  const { converted: oldMade } = await converted(old.digest);
  await proxy.fetch(`/v2/lib/a/referrers/${old.digest}`);
  expect((await proxy.fetch(`/v2/lib/a/manifests/${oldMade?.digest}`)).status).toBe(200);
}, 60_000);

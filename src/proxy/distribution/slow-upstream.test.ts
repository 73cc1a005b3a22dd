import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import type { Digest } from '../../oci/digest.ts';
import type { ConversionStatus } from '../conversion/conversion-status.ts';

// Long enough for an image of one small layer on a machine that has other things to do.
useProxiedRegistry({ tagTtlMs: 60_000, conversion: { images: 1, limits: { imageSeconds: 8 } } });

const good = (name: string) => Buffer.concat([tarMember({ path: name }, name), END_BLOCKS]);

async function pull(tag: string): Promise<void> {
  await (await proxy.fetch(`/v2/lib/a/manifests/${tag}`)).arrayBuffer();
}

function ended(digest: Digest): Promise<ConversionStatus> {
  return vi.waitFor(
    async () => {
      const status = (await (await proxy.fetch(`/dadi/v1/conversions/${digest}`)).json()) as ConversionStatus;
      expect(['done', 'failed']).toContain(status.state);
      return status;
    },
    { timeout: 60_000, interval: 50 },
  );
}

test('an upstream that trickles a layer holds the queue up no longer than an image may take', async () => {
  const slow = upstream.putImage([good('slow')], 'slow');
  const fine = upstream.putImage([good('fine')], 'fine');
  upstream.intercept = ({ url = '', method }, response) => {
    if (method !== 'GET' || !url.endsWith(slow.layers[0]!)) return false;
    response.writeHead(200, { 'content-length': good('slow').length });
    const timer = setInterval(() => response.write('a'), 50);
    response.on('close', () => clearInterval(timer));
    return true;
  };
  await pull('slow');
  await pull('fine');
  expect(await ended(slow.digest)).toMatchObject({
    errorCode: 'ERR_CONVERT_TIMEOUT',
    error: expect.stringContaining('imageSeconds'),
    nextAttemptAt: expect.any(String),
  });
  expect(await ended(fine.digest)).toMatchObject({ state: 'done' });
}, 120_000);

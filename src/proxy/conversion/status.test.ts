import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import { errorOf } from '../../../test/support/test-proxy.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import type { ConversionStatus } from './conversion-status.ts';

useProxiedRegistry({
  tagTtlMs: 60_000,
  conversion: { concurrency: 1, limits: { indexImages: 1 } },
});

const good = (name: string) => Buffer.concat([tarMember({ path: name }, name), END_BLOCKS]);
const broken = Buffer.alloc(1024, 'not a tar');

async function pull(tag: string): Promise<void> {
  const response = await proxy.fetch(`/v2/lib/a/manifests/${tag}`);
  expect(response.status).toBe(200);
  await response.arrayBuffer();
}

async function statusOf(digest: Digest): Promise<ConversionStatus> {
  return (await (await proxy.fetch(`/dadi/v1/conversions/${digest}`)).json()) as ConversionStatus;
}

function ended(digest: Digest): Promise<ConversionStatus> {
  return vi.waitFor(
    async () => {
      const status = await statusOf(digest);
      expect(['done', 'failed']).toContain(status.state);
      return status;
    },
    { timeout: 60_000, interval: 20 },
  );
}

test('a broken image is listed as failed, with the reason, and no second pull has it tried again', async () => {
  const [bad, fine] = [upstream.putImage([broken], 'bad'), upstream.putImage([good('fine')], 'fine')];
  await pull('bad');
  await pull('fine');
  expect(await ended(fine.digest)).toMatchObject({ state: 'done', attempts: 0, errorCode: null });
  const failed = await ended(bad.digest);
  expect(failed).toMatchObject({
    state: 'failed',
    errorCode: 'ERR_TAR_CORRUPT',
    error: expect.stringContaining('tar archive'),
    attempts: 1,
    nextAttemptAt: null,
  });
  await pull('bad');
  expect(await statusOf(bad.digest)).toEqual(failed);
  const list = async (query: string) =>
    (
      (await (await proxy.adminFetch(`/dadi/v1/conversions${query}`)).json()) as {
        conversions: ConversionStatus[];
      }
    ).conversions;
  expect(await list('?state=failed')).toEqual([failed]);
  expect(await list('')).toHaveLength(2);
  expect(await errorOf(await proxy.adminFetch('/dadi/v1/conversions?state=broken'))).toMatchObject({
    status: 400,
  });
});

test('a failed image is tried again when an operator asks for it, and only by POST', async () => {
  const bad = upstream.putImage([broken], 'bad');
  await pull('bad');
  const failed = await ended(bad.digest);
  const path = `/dadi/v1/conversions/${bad.digest}/retry`;
  expect(await errorOf(await proxy.adminFetch(path))).toMatchObject({ status: 405 });
  const answer = await proxy.adminFetch(path, { method: 'POST' });
  expect(answer.status).toBe(202);
  expect(await answer.json()).toMatchObject({
    digest: bad.digest,
    state: 'queued',
    attempts: 0,
    error: null,
  });
  const again = await ended(bad.digest);
  expect(again).toMatchObject({ state: 'failed', attempts: 1 });
  expect(Date.parse(again.updatedAt)).toBeGreaterThan(Date.parse(failed.updatedAt));
  const unknown = await proxy.adminFetch(`/dadi/v1/conversions/${digestOf('other')}/retry`, {
    method: 'POST',
  });
  expect(await errorOf(unknown)).toMatchObject({ status: 404 });
  const list = await proxy.adminFetch('/dadi/v1/conversions', { method: 'POST' });
  expect(await errorOf(list)).toMatchObject({ status: 405 });
});

test('an index of too many images is not converted, its images are when they are pulled', async () => {
  const [one, two] = [upstream.putImage([good('one')], 'one'), upstream.putImage([good('two')])];
  const both = upstream.putIndex([one, two], 'both');
  await pull('both');
  expect(await ended(both.digest)).toMatchObject({
    state: 'failed',
    errorCode: 'ERR_LIMIT',
    error: expect.stringMatching(/the index lists 2 images, 1 are allowed.*indexImages/),
  });
  await pull('one');
  expect(await ended(one.digest)).toMatchObject({ state: 'done' });
  expect((await proxy.fetch(`/dadi/v1/conversions/${two.digest}`)).status).toBe(404);
});

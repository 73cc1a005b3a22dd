import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { bytesOf } from '../../../test/support/test-proxy.ts';
import { Catalog } from '../../store/catalog.ts';
import { DirectoryBlobStore } from '../../store/directory-blob-store.ts';
import { StoreError } from '../../store/errors.ts';

const BIG = randomBytes(8 * 1024 * 1024);

useProxiedRegistry();

afterEach(() => {
  vi.restoreAllMocks();
});

test('a repository gets its blob although another one was refused it at the same time', async () => {
  const image = upstream.putImage([BIG], '1');
  await proxy.fetch('/v2/lib/b/manifests/1');
  const asked = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  upstream.intercept = (request, response) => {
    if (!request.url?.startsWith('/v2/lib/a/')) return false;
    asked.resolve();
    void go.promise.then(() => response.writeHead(404).end());
    return true;
  };
  const refused = proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`);
  await asked.promise;
  const given = proxy.fetch(`/v2/lib/b/blobs/${image.layers[0]}`);
  await sleep(200);
  go.resolve();
  expect((await refused).status).toBe(404);
  expect((await bytesOf(await given)).equals(BIG)).toBe(true);
});

test('a blob that is kept while another reader is looking for it is not downloaded again', async () => {
  const digest = upstream.putBlob(BIG);
  const asked = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  upstream.intercept = (_request, response) => {
    asked.resolve();
    void go.promise.then(() => response.writeHead(200, { 'content-length': BIG.length }).end(BIG));
    return true;
  };
  const first = proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  await asked.promise;
  const open = DirectoryBlobStore.prototype.open;
  const looked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  vi.spyOn(DirectoryBlobStore.prototype, 'open').mockImplementationOnce(async function (
    this: DirectoryBlobStore,
    ...wanted
  ) {
    const found = await open.apply(this, wanted);
    looked.resolve();
    await answer.promise;
    return found;
  });
  const second = proxy.fetch(`/v2/lib/a/blobs/${digest}`);
  await looked.promise;
  go.resolve();
  expect((await bytesOf(await first)).equals(BIG)).toBe(true);
  await vi.waitFor(
    async () => {
      const status = (await (await proxy.adminFetch('/dadi/v1/status')).json()) as { downloads: object[] };
      expect(status.downloads).toEqual([]);
    },
    { timeout: 30_000 },
  );
  answer.resolve();
  expect((await bytesOf(await second)).equals(BIG)).toBe(true);
  expect(upstream.count('GET', digest)).toBe(1);
});

test('a store that cannot take a blob lets go of the connection to upstream', async () => {
  const digest = upstream.putBlob(BIG);
  const closed: Promise<unknown>[] = [];
  upstream.intercept = (_request, response) => {
    closed.push(once(response, 'close'));
    return false;
  };
  rmSync(join(proxy.directory, 'ingest'), { recursive: true });
  // What cannot be kept is asked for once more, and passed through.
  expect((await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).equals(BIG)).toBe(true);
  expect(upstream.count('GET', digest)).toBe(2);
  await Promise.all(closed);
});

test('what is kept but cannot be read is not downloaded again and again', async () => {
  const image = upstream.putImage([BIG], '1');
  vi.spyOn(DirectoryBlobStore.prototype, 'open').mockRejectedValue(
    new StoreError('ERR_STORE_IO', 'no rights'),
  );
  const begun = await proxy.adminFetch('/dadi/v1/preheat?image=reg.example/lib/a:1', { method: 'POST' });
  const { id } = (await begun.json()) as { id: string };
  await vi.waitFor(
    async () => {
      const job = await (await proxy.adminFetch(`/dadi/v1/preheat/${id}`)).json();
      expect(job).toMatchObject({
        isOver: true,
        images: [{ state: 'failed', error: expect.stringContaining('no rights') }],
      });
    },
    { timeout: 20_000 },
  );
  expect(upstream.count('GET', image.layers[0]!)).toBe(1);
});

test('with a catalog that cannot be written, what is at hand is served all the same', async () => {
  const image = upstream.putImage([BIG], '1');
  for (const method of ['link', 'putTag', 'putManifest'] as const) {
    vi.spyOn(Catalog.prototype, method).mockImplementation(() => {
      throw new Error('database or disk is full');
    });
  }
  expect(await bytesOf(await proxy.fetch('/v2/lib/a/manifests/1'))).toEqual(image.bytes);
  for (let round = 0; round < 2; round++) {
    const blob = await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`);
    expect((await bytesOf(blob)).equals(BIG)).toBe(true);
  }
});

test('to name a foreign layer, which registries take unseen, opens no blob of another repository', async () => {
  const image = upstream.putImage([BIG], '1');
  const layer = image.layers[0]!;
  await proxy.fetch('/v2/lib/private/manifests/1');
  await bytesOf(await proxy.fetch(`/v2/lib/private/blobs/${layer}`));
  upstream.intercept = (request, response) => {
    if (!request.url?.startsWith('/v2/lib/thief/blobs/')) return false;
    response.writeHead(404).end();
    return true;
  };
  const manifest = JSON.parse(image.bytes.toString());
  manifest.layers = [
    { mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar', digest: layer, size: BIG.length },
    {
      mediaType: manifest.layers[0].mediaType,
      digest: layer,
      size: BIG.length,
      urls: ['https://reg.example/'],
    },
  ];
  upstream.putManifest(Buffer.from(JSON.stringify(manifest)), manifest.mediaType, 'foreign');
  expect((await proxy.fetch('/v2/lib/thief/manifests/foreign')).status).toBe(200);
  expect((await proxy.fetch(`/v2/lib/thief/blobs/${layer}`)).status).toBe(404);
});

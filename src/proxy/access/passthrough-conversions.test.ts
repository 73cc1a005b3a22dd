import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import { errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { OCI_CONFIG } from '../../oci/media-types.ts';
import type { ConversionStatus } from '../conversion/conversion-status.ts';

const SECRET = Buffer.concat([tarMember({ path: 'secret' }, 'secret'), END_BLOCKS]);

let upstream: FakeRegistry;
let proxy: TestProxy;

beforeEach(async () => {
  upstream = await FakeRegistry.start();
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'passthrough' },
    tagTtlMs: 0,
  });
});

afterEach(async () => {
  await proxy.remove();
  await upstream.stop();
});

function ended(repository: string, digest: Digest): Promise<ConversionStatus> {
  return vi.waitFor(
    async () => {
      const answer = await proxy.fetch(`/dadi/v1/conversions/${digest}?repository=${repository}`);
      const status = (await answer.json()) as ConversionStatus;
      expect(['done', 'failed']).toContain(status.state);
      return status;
    },
    { timeout: 30_000, interval: 20 },
  );
}

async function pull(name: string, tag: string): Promise<void> {
  const response = await proxy.fetch(`/v2/${name}/manifests/${tag}`);
  expect(response.status).toBe(200);
  await response.arrayBuffer();
}

/** Takes any manifest, but has no blob of anybody else's: as registries that do not look at what manifests name. */
function onlyOwnBlobs(repository: string, ...own: Digest[]): void {
  upstream.intercept = (request, response) => {
    const path = request.url ?? '';
    if (!path.startsWith(`/v2/${repository}/blobs/`) || own.some((digest) => path.endsWith(digest)))
      return false;
    response.writeHead(404).end();
    return true;
  };
}

test('to claim the chain of a private image brings nobody its converted layers', async () => {
  const image = upstream.putImage([SECRET], 'secret');
  await pull('private/a', 'secret');
  expect(await ended('private/a', image.digest)).toMatchObject({ state: 'done' });

  const parsed = JSON.parse(image.bytes.toString());
  const config = Buffer.from(
    JSON.stringify({
      os: 'linux',
      architecture: 'amd64',
      author: 'a thief',
      rootfs: { type: 'layers', diff_ids: [digestOf(SECRET)] },
    }),
  );
  const layer = Buffer.concat([tarMember({ path: 'own' }, 'own'), END_BLOCKS]);
  onlyOwnBlobs('thief/a', upstream.putBlob(config), upstream.putBlob(layer));
  const theft = upstream.putManifest(
    Buffer.from(
      JSON.stringify({
        ...parsed,
        config: { mediaType: OCI_CONFIG, digest: digestOf(config), size: config.length },
        layers: [{ ...parsed.layers[0], digest: digestOf(layer), size: layer.length }],
      }),
    ),
    parsed.mediaType,
    'theft',
  );
  await pull('thief/a', 'theft');
  expect(await ended('thief/a', theft)).toMatchObject({ state: 'failed', errorCode: 'ERR_CONVERT_DIFF_ID' });
  for (const [repository, digest, isTheirs] of [
    ['private/a', image.digest, true],
    ['thief/a', theft, false],
  ] as const) {
    const answer = await proxy.fetch(`/dadi/v1/images/${digest}?repository=${repository}`);
    const { chains } = (await answer.json()) as { chains: { converted: object | null }[] };
    expect(chains.map(({ converted }) => converted !== null)).toEqual([isTheirs]);
  }
});

test('a copy of a private image’s manifest shows nothing of what was made of its layers', async () => {
  const image = upstream.putImage([SECRET], 'secret');
  const index = upstream.putIndex([image], 'all');
  await pull('private/a', 'all');
  for (const digest of [index.digest, image.digest]) {
    expect(await ended('private/a', digest)).toMatchObject({ state: 'done' });
  }
  onlyOwnBlobs('thief/a');
  for (const [tag, digest] of [
    ['secret', image.digest],
    ['all', index.digest],
  ] as const) {
    await pull('thief/a', tag);
    expect(await errorOf(await proxy.fetch(`/v2/thief/a/manifests/${tag}_obd`))).toMatchObject({
      status: 404,
    });
    const referrers = await proxy.fetch(`/v2/thief/a/referrers/${digest}`);
    expect(await referrers.json()).toMatchObject({ manifests: [] });
    const obd = await proxy.fetch(`/v2/private/a/manifests/${tag}_obd`);
    expect(obd.status).toBe(200);
    const { layers = [] } = (await obd.json()) as { layers?: { digest: string }[] };
    for (const blob of layers) {
      expect((await proxy.fetch(`/v2/private/a/blobs/${blob.digest}`)).status).toBe(200);
      expect((await proxy.fetch(`/v2/thief/a/blobs/${blob.digest}`)).status).toBe(404);
    }
    const own = obd.headers.get('docker-content-digest');
    expect((await proxy.fetch(`/v2/private/a/manifests/${own}`)).status).toBe(200);
  }
});

test('what went wrong in one repository is not told in another', async () => {
  const image = upstream.putImage([Buffer.alloc(1024, 'not a tar')], 'bad');
  await pull('private/a', 'bad');
  expect((await ended('private/a', image.digest)).error).toContain('tar');
  await pull('lib/b', 'bad');
  expect(await ended('lib/b', image.digest)).toMatchObject({
    upstream: 'reg.example',
    repository: 'lib/b',
    error: 'ERR_TAR_CORRUPT',
  });
  const { message } = await errorOf(await proxy.fetch('/v2/lib/b/manifests/bad_obd'));
  expect(message).toContain('ERR_TAR_CORRUPT');
  expect(message).not.toContain('private');
});

test('the same image in two repositories is shown, converted, in both', async () => {
  const image = upstream.putImage([SECRET], '1');
  for (const repository of ['lib/a', 'lib/b']) {
    await pull(repository, '1');
    expect(await ended(repository, image.digest)).toMatchObject({ state: 'done', repository });
    const answer = await proxy.fetch(`/dadi/v1/images/${image.digest}?repository=${repository}`);
    expect(await answer.json()).toMatchObject({ state: 'done', chains: [{ converted: {} }] });
    expect((await proxy.fetch(`/v2/${repository}/manifests/1_obd`)).status).toBe(200);
  }
});

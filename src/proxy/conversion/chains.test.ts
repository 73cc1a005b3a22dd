import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import { bytesOf, errorOf } from '../../../test/support/test-proxy.ts';
import { chainIds } from '../../oci/chain-id.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';

useProxiedRegistry({
  tagTtlMs: 60_000,
  conversion: { concurrency: 2, exclude: ['reg.example/plain/*'] },
});

const layer = (name: string) => Buffer.concat([tarMember({ path: name }, name.repeat(1000)), END_BLOCKS]);
/** Layers of the fake registry's images are plain tars. */
const chainsOf = (layers: readonly Buffer[]) => chainIds(layers.map((bytes) => digestOf(bytes)));

interface ImageAnswer {
  readonly state: string;
  readonly chains: readonly {
    readonly chainId: Digest;
    readonly lowerChainId: Digest | null;
    readonly original: { readonly digest: Digest };
    readonly converted: {
      readonly digest: Digest;
      readonly size: number;
      readonly chunkTable: Digest;
    } | null;
  }[];
}

function ask(what: string, image: Digest, more = '', repository = 'lib/a'): Promise<Response> {
  return proxy.fetch(`/dadi/v1/${what}?ns=reg.example&repository=${repository}&image=${image}${more}`);
}

async function converted(image: Digest): Promise<ImageAnswer> {
  return vi.waitFor(
    async () => {
      const answer = (await (await ask(`images/${image}`, image, '&wait=20')).json()) as ImageAnswer;
      expect(answer.state).toBe('done');
      return answer;
    },
    { timeout: 60_000 },
  );
}

test('a node asks for all chains of an image, which has them converted, and pulls them', async () => {
  const layers = [layer('one'), layer('two')];
  const image = upstream.putImage(layers, '1');
  const { chains } = await converted(image.digest);
  const [lower, upper] = chainsOf(layers);
  expect(chains).toMatchObject([
    { chainId: lower, lowerChainId: null, original: { digest: image.layers[0] } },
    { chainId: upper, lowerChainId: lower, original: { digest: image.layers[1] } },
  ]);
  for (const { converted: blob } of chains) {
    const bytes = await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${blob?.digest}`));
    expect([digestOf(bytes), bytes.length]).toEqual([blob?.digest, blob?.size]);
    expect((await proxy.fetch(`/v2/lib/a/blobs/${blob?.chunkTable}`)).status).toBe(200);
  }
});

test('what is told of a whole image holds for a moment, and for that repository: then what was lost is missing', async () => {
  const image = upstream.putImage([layer('one')], '1');
  const [chain] = (await converted(image.digest)).chains;
  const hex = chain!.converted!.digest.slice('sha256:'.length);
  rmSync(join(proxy.directory, 'blobs', 'sha256', hex.slice(0, 2), hex));
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.startsWith('/v2/lib/none/')) return false;
    response.writeHead(404).end();
    return true;
  };
  expect((await ask(`images/${image.digest}`, image.digest, '', 'lib/none')).status).toBe(404);
  await vi.waitFor(
    async () => {
      const { chains } = (await (await ask(`images/${image.digest}`, image.digest)).json()) as ImageAnswer;
      expect(chains).toMatchObject([{ converted: null }]);
    },
    { timeout: 60_000 },
  );
});

test('a single chain is answered with its layer once it is there, and waited for as long as was asked', async () => {
  const layers = [layer('one'), layer('two')];
  const image = upstream.putImage(layers, '1');
  const [lower, upper] = chainsOf(layers);
  const answer = await vi.waitFor(
    async () => {
      const response = await ask(`chains/${upper}`, image.digest, '&wait=20');
      expect(response.status).toBe(200);
      return response.json();
    },
    { timeout: 60_000 },
  );
  const { chains } = await converted(image.digest);
  expect(answer).toMatchObject({ image: image.digest, chainId: upper, lowerChainId: lower });
  expect(answer).toMatchObject({ converted: chains[1]?.converted });
});

test('who does not wait hears at once how far it is, and that it was queued', async () => {
  const image = upstream.putImage([layer('one')], '1');
  upstream.intercept = ({ url = '' }) => url.endsWith(image.layers[0]!);
  const [chain] = chainsOf([layer('one')]);
  const response = await ask(`chains/${chain}`, image.digest);
  expect(response.status).toBe(404);
  const { errors } = (await response.json()) as { errors: { code: string; detail: { state: string } }[] };
  expect(errors[0]).toMatchObject({ code: 'MANIFEST_UNKNOWN' });
  expect(['queued', 'running']).toContain(errors[0]!.detail.state);
});

test('a chain that will not be converted is not waited for', async () => {
  const broken = Buffer.alloc(1024, 'not a tar');
  const image = upstream.putImage([broken], '1');
  const [chain] = chainsOf([broken]);
  const failed = async () => errorOf(await ask(`chains/${chain}`, image.digest, '&wait=20'));
  await vi.waitFor(async () => expect((await failed()).message).toContain('tar archive'), {
    timeout: 60_000,
  });
  const plain = await errorOf(await ask(`chains/${chain}`, image.digest, '&wait=20', 'plain/a'));
  expect(plain.message).toContain('tar archive');
});

test('an image that is left as it is says why, and so does its tag with _obd', async () => {
  const image = upstream.putImage([layer('one')], '1');
  const answer = await (await ask(`images/${image.digest}`, image.digest, '&wait=20', 'plain/a')).json();
  const reason = expect.stringContaining('"reg.example/plain/*"');
  expect(answer).toMatchObject({ state: 'left', error: reason, chains: [{ converted: null }] });
  const status = await (await proxy.fetch(`/dadi/v1/conversions/${image.digest}`)).json();
  expect(status).toMatchObject({ state: 'left', error: reason });
  const refused = await errorOf(await proxy.fetch('/v2/plain/a/manifests/1_obd'));
  expect(refused.message).toContain('is left as it is: conversion.exclude');
  // Another repository wants it.
  await converted(image.digest);
});

test('only for images that the repository has, and only their chains', async () => {
  const [one, two] = [upstream.putImage([layer('one')], '1'), upstream.putImage([layer('two')], '2')];
  await converted(one.digest);
  const [chain] = chainsOf([layer('one')]);
  expect((await ask(`chains/${chain}`, two.digest)).status).toBe(404);
  upstream.intercept = (_request, response) => {
    response.writeHead(404).end();
    return true;
  };
  expect((await ask(`chains/${chain}`, one.digest, '', 'lib/b')).status).toBe(404);
  expect((await ask(`images/${one.digest}`, one.digest, '', 'lib/b')).status).toBe(404);
  expect((await ask(`chains/${chain}`, one.digest)).status).toBe(200);
});

test.each([
  ['/dadi/v1/chains/abc?repository=lib/a&image=x', 'DIGEST_INVALID'],
  [`/dadi/v1/chains/${digestOf('c')}?image=${digestOf('i')}`, 'NAME_INVALID'],
  [`/dadi/v1/images/${digestOf('i')}?repository=../a`, 'NAME_INVALID'],
  [`/dadi/v1/images/${digestOf('i')}?repository=lib/a&ns=elsewhere.example`, 'NAME_UNKNOWN'],
])('%s is refused: %s', async (path, code) => {
  expect(await errorOf(await proxy.fetch(path))).toMatchObject({ code });
});

test('an index is no image, and a wait has to be a number', async () => {
  const image = upstream.putImage([layer('one')], '1');
  const index = upstream.putIndex([image], 'all');
  expect((await errorOf(await ask(`images/${index.digest}`, index.digest))).message).toContain('an index');
  expect(await errorOf(await ask(`images/${image.digest}`, image.digest, '&wait=long'))).toMatchObject({
    code: 'NAME_INVALID',
  });
});

test('who waits is answered when the proxy is stopped', async () => {
  const image = upstream.putImage([layer('one')], '1');
  upstream.intercept = ({ url = '' }) => url.endsWith(image.layers[0]!);
  const waiting = ask(`images/${image.digest}`, image.digest, '&wait=20');
  await vi.waitFor(async () => {
    expect((await proxy.fetch(`/dadi/v1/conversions/${image.digest}`)).status).toBe(200);
  });
  await proxy.stop();
  expect(await (await waiting).json()).toMatchObject({ chains: [{ converted: null }] });
  await proxy.start();
});

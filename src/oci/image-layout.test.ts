import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { requireCapability } from '../../test/support/capabilities.ts';
import { run } from '../../test/support/processes.ts';
import { type Digest, digestOf } from './digest.ts';
import { ImageLayout } from './image-layout.ts';
import { type Descriptor, encodeJson, parseManifest } from './manifest.ts';
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from './media-types.ts';

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'layout-'));
});
afterEach(() => {
  rmSync(scratch, { recursive: true });
});

/** Two empty blocks: an archive without entries. */
const emptyTar = Buffer.alloc(1024);

/** An image of one empty layer; `comment` makes it another one. */
async function putImage(layout: ImageLayout, comment: string): Promise<Descriptor> {
  const put = async (mediaType: string, bytes: Buffer): Promise<Descriptor> => ({
    mediaType,
    digest: await layout.putBlob(bytes),
    size: bytes.length,
  });
  const layer = await put(OCI_LAYER_TAR, emptyTar);
  const config = {
    os: 'linux',
    architecture: 'amd64',
    config: { Labels: { comment } },
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
  };
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: await put(OCI_CONFIG, encodeJson(config)),
    layers: [layer],
  };
  return put(OCI_MANIFEST, encodeJson(manifest));
}

async function skopeoInspect(
  directory: string,
  tag: string,
): Promise<{ Digest: string; Labels: Record<string, string> }> {
  return JSON.parse((await run('skopeo', ['inspect', `oci:${directory}:${tag}`])).stdout);
}

const withPrograms = test.skipIf(!requireCapability('skopeo', 'umoci'));

withPrograms('skopeo and umoci read what is written here', async () => {
  const directory = join(scratch, 'new', 'layout');
  const layout = await ImageLayout.create(directory);
  const [one, two] = [await putImage(layout, 'one'), await putImage(layout, 'two')];
  await Promise.all([layout.tag('1', one), layout.tag('2', one)]);
  await layout.tag('2', two);
  expect(await skopeoInspect(directory, '1')).toMatchObject({
    Digest: one.digest,
    Labels: { comment: 'one' },
  });
  expect(await skopeoInspect(directory, '2')).toMatchObject({
    Digest: two.digest,
    Labels: { comment: 'two' },
  });
  const listed = (await run('umoci', ['list', '--layout', directory])).stdout;
  expect(listed.split('\n').sort()).toEqual(['', '1', '2']);
  expect(readdirSync(directory).sort()).toEqual(['blobs', 'index.json', 'oci-layout']);
});

withPrograms('what umoci writes is read here, and keeps its other tags when one is set', async () => {
  const directory = join(scratch, 'umoci');
  await run('umoci', ['init', '--layout', directory]);
  await run('umoci', ['new', '--image', `${directory}:empty`]);
  const layout = await ImageLayout.open(directory);
  const { descriptor, bytes } = await layout.resolve('empty');
  expect(parseManifest(bytes, descriptor.mediaType)).toMatchObject({ kind: 'image', layers: [] });
  await layout.tag('mine', await putImage(layout, 'mine'));
  expect((await layout.list()).map(({ tag }) => tag)).toEqual(['empty', 'mine']);
  expect((await skopeoInspect(directory, 'empty')).Digest).toBe(descriptor.digest);
});

test('without a tag the only image is meant, and of several none', async () => {
  const layout = await ImageLayout.create(scratch);
  const missing = { code: 'ERR_LAYOUT_NOT_FOUND' };
  await expect(layout.resolve()).rejects.toMatchObject(missing);
  const image = await putImage(layout, 'x');
  await layout.tag('a', image);
  expect((await layout.resolve()).descriptor.digest).toBe(image.digest);
  await layout.tag('b', image);
  await expect(layout.resolve()).rejects.toMatchObject({
    ...missing,
    message: expect.stringMatching(/a, b$/),
  });
  await expect(layout.resolve('c')).rejects.toMatchObject({
    ...missing,
    message: expect.stringMatching(/a, b$/),
  });
});

test('a damaged blob is not handed out, nor one larger than allowed', async () => {
  const layout = await ImageLayout.create(scratch);
  const digest = await layout.putBlob(Buffer.from('good'));
  expect(await layout.readBlob(digest)).toEqual(Buffer.from('good'));
  await expect(layout.readBlob(digest, 3)).rejects.toMatchObject({ code: 'ERR_LAYOUT_INVALID' });
  writeFileSync(layout.blobPath(digest), 'evil');
  await expect(layout.readBlob(digest)).rejects.toMatchObject({ code: 'ERR_LAYOUT_DIGEST' });
  await expect(layout.readBlob(digestOf('none'))).rejects.toMatchObject({ code: 'ERR_LAYOUT_NOT_FOUND' });
});

test('a file is linked into the layout, not copied, also a second time and under sha512', async () => {
  const layout = await ImageLayout.create(join(scratch, 'layout'));
  const path = join(scratch, 'blob');
  writeFileSync(path, 'bytes');
  const digests: Digest[] = [digestOf('bytes'), digestOf('bytes'), digestOf('bytes', 'sha512')];
  await Promise.all(digests.map((digest) => layout.linkBlob(path, digest)));
  for (const digest of digests) {
    await layout.linkBlob(path, digest);
    expect(statSync(layout.blobPath(digest)).ino).toBe(statSync(path).ino);
  }
  expect(readdirSync(join(scratch, 'layout')).sort()).toEqual(['blobs', 'index.json', 'oci-layout']);
});

test('a file on another file system is copied into the layout', async () => {
  const layout = await ImageLayout.create(scratch);
  const path = mkdtempSync('/dev/shm/layout-');
  try {
    writeFileSync(join(path, 'blob'), 'bytes');
    expect(statSync(path).dev).not.toBe(statSync(scratch).dev);
    await layout.linkBlob(join(path, 'blob'), digestOf('bytes'));
  } finally {
    rmSync(path, { recursive: true });
  }
  expect(await layout.readBlob(digestOf('bytes'))).toEqual(Buffer.from('bytes'));
});

test('a directory that is no layout, or a newer one, is refused; create leaves what is there', async () => {
  await expect(ImageLayout.open(scratch)).rejects.toMatchObject({ code: 'ERR_LAYOUT_NOT_FOUND' });
  const layout = await ImageLayout.create(scratch);
  await layout.tag('a', await putImage(layout, 'x'));
  const index = readFileSync(join(scratch, 'index.json'));
  await ImageLayout.create(scratch);
  expect(readFileSync(join(scratch, 'index.json'))).toEqual(index);
  writeFileSync(join(scratch, 'oci-layout'), '{"imageLayoutVersion":"2.0.0"}');
  await expect(ImageLayout.open(scratch)).rejects.toMatchObject({ code: 'ERR_LAYOUT_INVALID' });
});

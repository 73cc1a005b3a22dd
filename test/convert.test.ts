import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DemoImage } from '../demo/image.ts';
import { LAYERS } from '../demo/recipe.ts';
import type { SpaceUse } from '../src/format/erofs-space.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { type ImageManifest, parseManifest } from '../src/oci/manifest.ts';
import { writeBigLayer } from './support/big-layer.ts';
import { requireCapability } from './support/capabilities.ts';
import { builtDemoImage } from './support/demo-image.ts';
import { buildImage, unpackWithUmoci } from './support/images.ts';
import { withMountedLayers } from './support/mounted-layers.ts';
import { writeOddImage } from './support/odd-image.ts';
import { putOneLayerImage } from './support/one-layer-image.ts';
import { run } from './support/processes.ts';
import { diffTrees, readTree } from './support/tree.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const LAYER_COUNTS = Array.from({ length: LAYERS.length + 1 }, (_, index) => index + 1);

const work = mkdtempSync(join(tmpdir(), 'dadi-convert-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

interface ConvertResult {
  readonly digest: string;
  readonly images: readonly { readonly layers: readonly { readonly blobDigest: string }[] }[];
}

async function dadiConvert(source: string, layout: string, ...flags: string[]): Promise<ConvertResult> {
  const { stdout } = await run(process.execPath, [
    MAIN,
    'convert',
    source,
    `oci:${layout}`,
    '--json',
    ...flags,
  ]);
  return JSON.parse(stdout) as ConvertResult;
}

function blobPaths(layout: string, result: ConvertResult): string[] {
  return result.images[0]!.layers.map(({ blobDigest }) =>
    join(layout, 'blobs', blobDigest.replace(':', '/')),
  );
}

const canRun = requireCapability('root', 'fuse', 'erofs', 'umoci', 'erofs-utils', 'mmdebstrap');

describe.skipIf(!canRun)('the demo image, converted by `dadi convert`', () => {
  const layout = join(work, 'converted');
  let image: DemoImage;
  let result: ConvertResult;

  beforeAll(async () => {
    image = await builtDemoImage(new AbortController().signal);
    result = await dadiConvert(`oci:${image.layout}:latest`, layout);
  });

  test.each(LAYER_COUNTS)(
    'the first %i layers, mounted by the kernel, are what umoci unpacks, and fsck.erofs is content',
    async (count) => {
      const bundle = join(work, `unpacked-${count}`);
      const expected = await readTree(
        await unpackWithUmoci({ layout: image.layout, tag: String(count) }, bundle),
      );
      const paths = blobPaths(layout, result).slice(0, count);
      const actual = await withMountedLayers(paths, async ({ directory, deviceFile }) => {
        await run('fsck.erofs', [deviceFile]);
        return readTree(directory);
      });
      expect(expected.length).toBeGreaterThan(5000);
      expect(diffTrees(expected, actual)).toEqual([]);
      rmSync(bundle, { recursive: true });
    },
  );

  test('is the same to the digest when it is converted again', async () => {
    const again = await dadiConvert(`oci:${image.layout}:latest`, join(work, 'again'), '--concurrency', '1');
    expect(again.digest).toBe(result.digest);
  });

  test('wastes little: `dadi inspect` says what of the device is content, and what padding and unused', async () => {
    const inspect = async (...flags: string[]) =>
      (await run(process.execPath, [MAIN, 'inspect', `oci:${layout}`, ...flags])).stdout;
    const { space } = JSON.parse(await inspect('--json')) as { space: SpaceUse };
    expect(space.inodes).toBeGreaterThan(5000);
    expect(space.fileBytes).toBeGreaterThan(100_000_000);
    expect(space.filePaddingBytes).toBeLessThan(space.fileBytes / 10);
    expect(space.inodeBytes).toBeLessThan(space.inodes * 200);
    expect(space.inodeSlackBytes).toBeLessThan(space.inodeBytes / 5);
    expect(await inspect()).toMatch(/\nspace +files \d+ MB, padded by /);
    const [bottom, above] = blobPaths(layout, result);
    for (const [path, expected] of [
      [bottom, { inodes: expect.any(Number) }],
      [above, null],
    ] as const) {
      const { stdout } = await run(process.execPath, [MAIN, 'inspect', path!, '--json']);
      const report = JSON.parse(stdout) as { space: SpaceUse | null };
      if (expected === null) expect(report.space).toBeNull();
      else expect(report.space).toMatchObject(expected);
    }
  });

  test('is an image to skopeo, and an overlaybd image by its annotations', async () => {
    await run('skopeo', ['inspect', '--raw', `oci:${layout}:latest`]);
    const { descriptor, bytes } = await (await ImageLayout.open(layout)).resolve('latest');
    expect(descriptor.digest).toBe(result.digest);
    const { layers } = parseManifest(bytes, descriptor.mediaType) as ImageManifest;
    expect(layers).toHaveLength(LAYER_COUNTS.length);
    for (const { annotations, digest, size } of layers) {
      expect(annotations?.['containerd.io/snapshot/overlaybd/version']).toBe('0.1.0');
      expect(annotations?.['containerd.io/snapshot/overlaybd/blob-digest']).toBe(digest);
      expect(annotations?.['containerd.io/snapshot/overlaybd/blob-size']).toBe(String(size));
    }
  });
});

describe.skipIf(!requireCapability('root', 'fuse', 'erofs', 'umoci', 'erofs-utils', 'attr'))(
  'an image of oddities (names that are not UTF-8, devices, xattrs, links across layers, opaque directories)',
  () => {
    const layout = join(work, 'odd-converted');
    const tags = ['1', '2', '3'];
    let source: string;
    let result: ConvertResult;

    beforeAll(async () => {
      const directory = join(work, 'odd');
      mkdirSync(directory);
      const tars = writeOddImage(directory);
      for (const tag of tags) await buildImage(directory, tag, tars.slice(0, Number(tag)));
      source = join(directory, 'oci');
      result = await dadiConvert(`oci:${source}:3`, layout, '--algorithm', 'lz4', '--block-size', '4096');
    });

    test.each(tags)('its first %s layers, mounted by the kernel, are what umoci unpacks', async (tag) => {
      const bundle = join(work, `odd-unpacked-${tag}`);
      const expected = await readTree(await unpackWithUmoci({ layout: source, tag }, bundle));
      const paths = blobPaths(layout, result).slice(0, Number(tag));
      const actual = await withMountedLayers(paths, async ({ directory, deviceFile }) => {
        await run('fsck.erofs', [deviceFile]);
        return readTree(directory);
      });
      expect(expected.length).toBeGreaterThan(20);
      expect(diffTrees(expected, actual)).toEqual([]);
    });
  },
);

test.skipIf(!requireCapability('time'))(
  'a layer of 500 MB, 100,000 files in it, is converted in less than 400 MB of memory',
  async () => {
    const layer = join(work, 'big.tar.gz');
    const { diffId, tarBytes } = await writeBigLayer(layer, { bytes: 500_000_000, smallFiles: 100_000 });
    expect(tarBytes).toBeGreaterThan(500_000_000);
    const source = join(work, 'big');
    await putOneLayerImage(source, layer, diffId);
    const target = join(work, 'big-converted');
    const dadi = [process.execPath, MAIN, 'convert', `oci:${source}`, `oci:${target}`];
    const { stderr } = await run('/usr/bin/time', ['-f', 'peak KiB: %M', ...dadi]);
    const peakKib = Number(/peak KiB: (\d+)/.exec(stderr)?.[1]);
    expect(peakKib).toBeGreaterThan(0);
    expect(peakKib).toBeLessThan(400_000_000 / 1024);
    const sizes = readdirSync(join(target, 'blobs/sha256')).map(
      (name) => statSync(join(target, 'blobs/sha256', name)).size,
    );
    expect(Math.max(...sizes)).toBeGreaterThan(100_000_000);
  },
);

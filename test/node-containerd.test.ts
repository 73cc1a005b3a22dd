import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  OVERLAYBD_BLOB_DIGEST_ANNOTATION,
  OVERLAYBD_BLOB_SIZE_ANNOTATION,
  OVERLAYBD_VERSION_ANNOTATION,
} from '../src/oci/annotations.ts';
import { digestOf } from '../src/oci/digest.ts';
import { OCI_LAYER_TAR } from '../src/oci/media-types.ts';
import { busyboxImage, randomFile } from './support/busybox-image.ts';
import { requireCapability } from './support/capabilities.ts';
import { golden } from './support/golden.ts';
import { goldenTree } from './support/golden-tree.ts';
import { type MadeManifest, makeImage } from './support/made-image.ts';
import { HOST, NodeStack, PAUSE, scratchDirectory } from './support/node-stack.ts';
import { run } from './support/processes.ts';
import { diffTrees } from './support/tree.ts';

const canRun = requireCapability('root', 'containerd', 'runc', 'registry', 'fuse', 'erofs', 'busybox');

const SEEDS = { 'lib/one:1': 1, 'lib/late:1': 2, 'lib/alone:1': 3, 'lib/private:1': 4 } as const;
type Name = keyof typeof SEEDS;
const IMAGES = {
  'lib/one:1': busyboxImage(1, { base: 100 }),
  'lib/late:1': busyboxImage(2, { base: 100 }),
  'lib/alone:1': busyboxImage(3),
  'lib/private:1': busyboxImage(4),
  'lib/stock:1': stockImage(),
} satisfies Record<Name | 'lib/stock:1', MadeManifest>;

/** As the stock overlaybd tools make images: their ext4 is in the layers, and nobody can unpack these. */
function stockImage(): MadeManifest {
  const names = ['layer1.zstd-4k.tar.obd', 'layer2.lz4-4k.tar.obd', 'layer3.lz4-4k.obd'];
  const layers = names.map((name) => {
    const bytes = golden(`ext4/${name}`).bytes();
    const digest = digestOf(bytes);
    const annotations = {
      [OVERLAYBD_VERSION_ANNOTATION]: '0.1.0',
      [OVERLAYBD_BLOB_DIGEST_ANNOTATION]: digest,
      [OVERLAYBD_BLOB_SIZE_ANNOTATION]: String(bytes.length),
    };
    return { mediaType: OCI_LAYER_TAR, bytes, diffId: digest, descriptor: { annotations } };
  });
  return makeImage(layers);
}

/** A program that looks at what the layers add, change and hide. */
const LOOK = `cat /etc/name; ls /etc/d; test ! -e /etc/old && sha256sum ${randomFile(0)}`;
const lookingAt = (name: Name) => ({
  exitCode: 0,
  output: `top ${SEEDS[name]}\nnew\n${IMAGES[name].contents[0]}  ${randomFile(0)}\n`,
});
const shell = (script: string) => ['/bin/sh', '-c', script];

/** How many of an image's layers containerd has downloaded. */
async function downloaded(stack: NodeStack<keyof typeof IMAGES>, name: keyof typeof IMAGES): Promise<number> {
  const layers = stack.images[name].blobs.slice(1).map((blob) => digestOf(blob));
  const content = await stack.containerd.ctr('content', 'ls', '--quiet');
  return layers.filter((layer) => content.includes(layer)).length;
}

describe.skipIf(!canRun)('containerd with the snapshotter of the node daemon', () => {
  let stack: NodeStack<keyof typeof IMAGES>;
  let pod: string;

  const runLook = (reference: string) => stack.containerd.run(pod, reference, ...shell(LOOK));
  const snapshots = (...args: string[]) =>
    stack.containerd.ctr('snapshots', '--snapshotter', 'dadi', ...args);

  beforeAll(async () => {
    stack = await NodeStack.start({
      scratch: scratchDirectory(),
      images: IMAGES,
      node: { conversionWaitMs: 1000 },
    });
    await stack.convert(PAUSE, 'lib/one:1');
    pod = await stack.containerd.runPod();
  });

  afterAll(async () => {
    await stack?.remove();
  });

  test('a converted image is pulled without any of its layers, and a container runs from it', async () => {
    const reference = stack.reference('lib/one:1');
    await stack.containerd.pull(reference);
    const { digest } = IMAGES['lib/one:1'].descriptor;
    expect(await stack.containerd.imageStatus(reference)).toMatchObject({
      repoDigests: [`${HOST}/lib/one@${digest}`],
    });
    expect(await runLook(reference)).toEqual(lookingAt('lib/one:1'));
    expect(await downloaded(stack, 'lib/one:1')).toBe(0);
  });

  test('two containers of one image share its mount, and neither sees what the other writes', async () => {
    const image = stack.reference('lib/one:1');
    const one = await stack.containerd.startContainer(pod, image, '/bin/sleep', '1000');
    const other = await stack.containerd.startContainer(pod, image, '/bin/sleep', '1000');
    const change = 'echo mine >/etc/name; rm /etc/base; mkdir -p /made/d; cat /etc/name';
    expect(await one.exec(...shell(change))).toEqual({ exitCode: 0, output: 'mine\n' });
    expect(await other.exec(...shell('cat /etc/name /etc/base; test ! -e /made'))).toEqual({
      exitCode: 0,
      output: 'top 1\nbase 100\n',
    });
    // The pod's own image, and this one.
    expect(stack.node.mounts()).toHaveLength(2);
    await other.remove();

    // What was written is a layer over the lazy ones: what a commit of the container pushes.
    const archive = join(stack.scratch, 'diff.tar.gz');
    await stack.containerd.ctrInto(archive, 'snapshots', '--snapshotter', 'dadi', 'diff', one.id);
    const { stdout } = await run('tar', ['-tzf', archive]);
    const paths = stdout.split('\n');
    expect(paths).toEqual(expect.arrayContaining(['etc/.wh.base', 'etc/name', 'made/d/']));
    expect(paths.filter((path) => path.startsWith('data') || path.startsWith('bin'))).toEqual([]);
    await one.remove();
  });

  test('a snapshot that is committed over lazy layers is the parent of others', async () => {
    const root = join(stack.scratch, 'root');
    mkdirSync(root);
    const withMounted = async (key: string, use: () => Promise<void>) => {
      // `ctr` prints the commands.
      await run('sh', ['-ec', await snapshots('mounts', root, key)]);
      try {
        await use();
      } finally {
        await run('umount', [root]);
      }
    };
    await snapshots('prepare', 'work', stack.chainId('lib/one:1'));
    await withMounted('work', async () => {
      writeFileSync(join(root, 'etc/name'), 'committed');
      rmSync(join(root, 'etc/d'), { recursive: true });
    });
    await snapshots('commit', 'committed', 'work');
    await snapshots('prepare', 'above', 'committed');
    await withMounted('above', async () => {
      expect(readFileSync(join(root, 'etc/name'), 'utf8')).toBe('committed');
      expect(readdirSync(join(root, 'etc'))).toEqual(['base', 'name']);
      expect(digestOf(await readFile(join(root, randomFile(0))))).toBe(
        `sha256:${IMAGES['lib/one:1'].contents[0]}`,
      );
    });
    expect(await snapshots('info', 'committed')).toMatch(/"Kind": "Committed"/);
    await snapshots('rm', 'above', 'committed');
  });

  test('an image whose conversion takes longer than a pull waits is pulled as ever, and lazily when it is done', async () => {
    const reference = stack.farReference('lib/late:1');
    // The layers come to containerd, and not to the proxy.
    stack.farCable.stallAfter(100_000);
    await stack.containerd.pull(reference);
    expect(await runLook(reference)).toEqual(lookingAt('lib/late:1'));
    // The lowest layer is lazy: the other image has it.
    expect(await downloaded(stack, 'lib/late:1')).toBe(2);
    await stack.containerd.removeImage(reference);
    stack.farCable.mend();
    await stack.convertFar('lib/late:1');
    await stack.containerd.pull(reference);
    expect(await runLook(reference)).toEqual(lookingAt('lib/late:1'));
    expect(await downloaded(stack, 'lib/late:1')).toBe(0);
  });

  test('without the proxy an image comes from the registry as ever', async () => {
    const reference = stack.reference('lib/alone:1');
    stack.cable.cut();
    await stack.containerd.pull(reference);
    expect(await runLook(reference)).toEqual(lookingAt('lib/alone:1'));
    expect(await downloaded(stack, 'lib/alone:1')).toBe(3);
    stack.cable.mend();
  });

  test('an image of the stock overlaybd tools, with their ext4, is mounted as it is', async () => {
    await stack.containerd.pull(stack.reference('lib/stock:1'));
    expect(await downloaded(stack, 'lib/stock:1')).toBe(0);
    const expected = goldenTree(join(import.meta.dirname, 'golden/ext4/tree-1-3.json'));
    expect(diffTrees(expected, await stack.treeOf('dadi', stack.chainId('lib/stock:1')))).toEqual([]);
  });

  test('ctr pulls and runs images with the snapshotter', async () => {
    const reference = stack.reference('lib/one:1');
    const ctr = (...args: string[]) => stack.containerd.ctr('--namespace', 'other', ...args);
    const flags = ['--snapshotter', 'dadi'];
    await ctr('images', 'pull', '--hosts-dir', join(stack.scratch, 'hosts'), ...flags, reference);
    expect(await ctr('run', '--rm', ...flags, reference, 'by-ctr', ...shell(LOOK))).toBe(
      lookingAt('lib/one:1').output,
    );
    await ctr('images', 'rm', '--sync', reference);
  });

  test('what containerd does not need any more is unmounted', async () => {
    await stack.containerd.removePod(pod);
    const names = ['lib/one:1', 'lib/alone:1', 'lib/stock:1', PAUSE] as const;
    const references = names.map((name) => stack.reference(name));
    for (const reference of [...references, stack.farReference('lib/late:1')]) {
      await stack.containerd.removeImage(reference);
    }
    expect((await snapshots('ls')).trim().split('\n')).toHaveLength(1);
    await vi.waitFor(() => expect(stack.node.mounts()).toEqual([]), { timeout: 60_000, interval: 100 });
    expect(readdirSync(join(stack.scratch, 'n/state/snapshots/snapshots'))).toEqual([]);
  });
});

describe.skipIf(!canRun)('containerd with the snapshotter, and images that not everybody may read', () => {
  let stack: NodeStack<keyof typeof IMAGES>;

  beforeAll(async () => {
    const scratch = scratchDirectory();
    const dockerConfig = join(scratch, 'docker.json');
    const auth = Buffer.from('alice:secret').toString('base64');
    writeFileSync(dockerConfig, JSON.stringify({ auths: { [HOST]: { auth } } }));
    stack = await NodeStack.start({
      scratch,
      images: IMAGES,
      registry: { auth: 'token', publicRepositories: 'lib/pause' },
      proxy: { access: { mode: 'passthrough' } },
      node: { credentials: { dockerConfig }, conversionWaitMs: 120_000 },
    });
  });

  afterAll(async () => {
    await stack?.remove();
  });

  test('a pull waits for the conversion, and layers are read with the credentials of the daemon', async () => {
    const reference = stack.reference('lib/private:1');
    await expect(stack.containerd.pull(reference)).rejects.toThrow(/401|denied|authorization failed/);
    await stack.containerd.pull(reference, { username: 'alice', password: 'secret' });
    const pod = await stack.containerd.runPod();
    expect(await stack.containerd.run(pod, reference, ...shell(LOOK))).toEqual(lookingAt('lib/private:1'));
    expect(await downloaded(stack, 'lib/private:1')).toBe(0);
  });
});

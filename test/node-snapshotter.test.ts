/** The snapshotter as containerd has it: behind its own metadata, for `ctr`, and with runc on what it mounts. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Mount } from '../src/client/snapshotter/snapshots-api.ts';
import { requireCapability } from './support/capabilities.ts';
import { Containerd } from './support/containerd.ts';
import { buildImage, type LayoutImage } from './support/images.ts';
import { run } from './support/processes.ts';
import { withMounted } from './support/snapshot-mounts.ts';
import { SnapshotsClient } from './support/snapshots-client.ts';
import {
  GivenAnswers,
  GivenMounts,
  lazyChain,
  pullLabels,
  startSnapshotter,
  type TestSnapshotter,
} from './support/snapshotter.ts';

const IMAGE = 'test/small:1';

describe.skipIf(!requireCapability('root', 'containerd', 'runc', 'umoci', 'busybox'))('containerd', () => {
  let root: string;
  let containerd: Containerd;
  let snapshotter: TestSnapshotter;
  let answers: GivenAnswers;
  let mounts: GivenMounts;
  let archive: string;

  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), 'dadi-ns-'));
    answers = new GivenAnswers();
    mounts = new GivenMounts(join(root, 'chains'));
    archive = join(root, 'image.tar');
    const { layout } = await smallImage(root);
    await run('tar', ['-cf', archive, '-C', layout, '.']);
    await start();
  });

  afterAll(async () => {
    await stop();
    rmSync(root, { recursive: true });
  });

  async function start(): Promise<void> {
    snapshotter = await startSnapshotter(root, { lookup: answers, mounts });
    containerd = await Containerd.start(join(root, 'c'), snapshotter.socketPath);
  }

  async function stop(): Promise<void> {
    await containerd.stop();
    await snapshotter.stop();
  }

  const snapshots = (...args: string[]) => containerd.command('snapshots', '--snapshotter', 'dadi', ...args);
  const runIn = (name: string, script: string) =>
    containerd.command(
      'run',
      '--snapshotter',
      'dadi',
      '--rm',
      IMAGE,
      name,
      '/bin/busybox',
      'sh',
      '-c',
      script,
    );

  test('unpacks an image into our snapshots, and runs containers that write, over a restart of both', async () => {
    await containerd.command(
      'images',
      'import',
      '--snapshotter',
      'dadi',
      '--base-name',
      'test/small',
      archive,
    );
    const [, top] = (await snapshotter.client.list()).map(({ name }) => name);
    expect(top).toMatch(/^default\/\d+\/sha256:/);
    expect(await runIn('c1', 'cat /greeting; echo mine > /written; cat /written')).toBe(
      'hello again\nmine\n',
    );
    // What the container wrote has gone with it.
    await collectGarbage();
    expect((await snapshotter.client.list()).length).toBe(2);
    await stop();
    await start();
    expect(await runIn('c2', 'cat /greeting; ls /written || echo none')).toBe('hello again\nnone\n');
  });

  test('prepares, commits, shows, counts and removes as `ctr` asks', async () => {
    const target = join(root, 'mnt');
    mkdirSync(target);
    const chainId = (await snapshots('list'))
      .split('\n')
      .find((line) => / sha256:/.test(line))
      ?.split(/\s+/)[0];
    const prepared = JSON.parse(await snapshots('prepare', '--mounts', 'work', chainId!)) as Record<
      string,
      unknown
    >[];
    await withMounted(prepared.map(toMount), target, () => writeFileSync(join(target, 'new'), 'new\n'));
    await snapshots('commit', 'with-new', 'work');
    const view = JSON.parse(await snapshots('view', '--mounts', 'look', 'with-new')) as Record<
      string,
      unknown
    >[];
    await withMounted(view.map(toMount), target, () => {
      expect(readFileSync(join(target, 'new'), 'utf8')).toBe('new\n');
      expect(readFileSync(join(target, 'greeting'), 'utf8')).toBe('hello again\n');
    });
    expect(JSON.parse(await snapshots('info', 'with-new'))).toMatchObject({
      Kind: 'Committed',
      Parent: chainId,
    });
    expect(await snapshots('usage', 'with-new')).toMatch(/with-new\s+8\.0 KiB\s+2/);
    await expect(snapshots('rm', 'with-new')).rejects.toThrow('cannot remove snapshot with child');
    await snapshots('label', 'with-new', 'a=b');
    expect(JSON.parse(await snapshots('info', 'with-new'))).toMatchObject({ Labels: { a: 'b' } });
    await snapshots('rm', 'look');
    await snapshots('rm', 'with-new');
    await collectGarbage();
    expect((await snapshotter.client.list()).map(({ name }) => name).join()).not.toMatch('with-new');
    const directories = readdirSync(join(root, 'state/snapshots'));
    expect(directories.length).toBe((await snapshotter.client.list()).length);
  });

  test('finds a layer that is read lazily, in each namespace, and unmounts it with the last container', async () => {
    const chain = lazyChain('image', 2);
    answers.answers.set(chain.chainId, { kind: 'converted', chain });
    const base = lazyChain('image', 1);
    answers.answers.set(base.chainId, { kind: 'converted', chain: base });
    const before = (await snapshotter.client.list()).length;
    for (const namespace of ['one', 'two']) {
      const client = new SnapshotsClient(containerd.socketPath, { snapshotter: 'dadi', namespace });
      try {
        await expectThere(client, base.chainId, '');
        await expectThere(client, chain.chainId, base.chainId);
        const [mount] = await client.prepare('container', chain.chainId, {
          'containerd.io/gc.root': 'now',
        });
        expect(mount?.options.join()).toContain(`lowerdir=${mounts.directory(chain.chainId)}`);
      } finally {
        client.close();
      }
    }
    // Two layers, which the namespaces share, and a container in each.
    expect((await snapshotter.client.list()).length).toBe(before + 4);
    for (const namespace of ['one', 'two']) {
      expect(mounts.mounted).toEqual(new Set([chain.chainId]));
      await containerd.command(
        '--namespace',
        namespace,
        'snapshots',
        '--snapshotter',
        'dadi',
        'rm',
        'container',
      );
      await collectGarbage();
    }
    expect(mounts.mounted).toEqual(new Set());
    // Nothing refers to the layers either.
    expect((await snapshotter.client.list()).length).toBe(before);
  });

  /** As containerd unpacks an image: it prepares under a key of its own, and is told that the layer is there. */
  async function expectThere(client: SnapshotsClient, chainId: string, parent: string): Promise<void> {
    const asked = client.prepare(`extract-1 ${chainId}`, parent, pullLabels(chainId));
    await expect(asked).rejects.toMatchObject({ code: status.ALREADY_EXISTS });
    expect(await client.stat(chainId)).toMatchObject({ name: chainId, kind: 'COMMITTED', parent });
  }

  /** Deleting a lease waits for it. */
  async function collectGarbage(): Promise<void> {
    const lease = (await containerd.command('leases', 'create')).trim();
    await containerd.command('leases', 'delete', '--sync', lease);
  }
});

function toMount({ Type, Source, Options }: Record<string, unknown>): Mount {
  return { type: String(Type), source: String(Source), options: Options as string[] };
}

/** A shell, and a file that the second layer replaces. */
async function smallImage(root: string): Promise<LayoutImage> {
  const [low, high] = ['low', 'high'].map((name) => join(root, name)) as [string, string];
  mkdirSync(join(low, 'bin'), { recursive: true });
  cpSync('/bin/busybox', join(low, 'bin/busybox'));
  for (const name of ['sh', 'cat', 'ls']) symlinkSync('busybox', join(low, 'bin', name));
  for (const name of ['proc', 'sys', 'dev']) mkdirSync(join(low, name));
  writeFileSync(join(low, 'greeting'), 'hello\n');
  mkdirSync(high);
  writeFileSync(join(high, 'greeting'), 'hello again\n');
  for (const layer of [low, high]) await run('tar', ['-cf', `${layer}.tar`, '-C', layer, '.']);
  return buildImage(root, '1', [`${low}.tar`, `${high}.tar`]);
}

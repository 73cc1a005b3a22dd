import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  GivenAnswers,
  GivenMounts,
  lazyChain,
  pullLabels,
  startSnapshotter,
  type TestSnapshotter,
} from '../../../test/support/snapshotter.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';

const WAIT_MS = 60_000;
const CHAINS = [1, 2, 3].map((height) => lazyChain('image', height));
const [LOW, MIDDLE, TOP] = CHAINS.map(({ chainId }) => chainId) as [Digest, Digest, Digest];

const refusal = (code: status) => expect.objectContaining({ code });

let root: string;
let answers: GivenAnswers;
let mounts: GivenMounts;
let snapshotter: TestSnapshotter;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'dadi-sn-'));
  answers = new GivenAnswers();
  mounts = new GivenMounts(join(root, 'chains'));
  for (const chain of CHAINS) answers.answers.set(chain.chainId, { kind: 'converted', chain });
  await start();
});

afterEach(async () => {
  await snapshotter.stop();
  rmSync(root, { recursive: true });
});

async function start(): Promise<void> {
  snapshotter = await startSnapshotter(root, { lookup: answers, mounts, conversionWaitMs: WAIT_MS });
}

async function restart(): Promise<void> {
  await snapshotter.stop();
  await start();
}

/** Asks for a layer as containerd does, and finds what containerd then looks for. */
async function pullLazily(chainId: Digest, parent = ''): Promise<string> {
  const { client } = snapshotter;
  const asked = client.prepare(`extract ${chainId} ${parent}`, parent, pullLabels(chainId));
  await expect(asked).rejects.toEqual(refusal(status.ALREADY_EXISTS));
  const filter = `labels."containerd.io/snapshot.ref"==${chainId},parent==${JSON.stringify(parent)}`;
  const found = await client.list(filter);
  expect(found).toEqual([
    expect.objectContaining({ kind: 'COMMITTED', parent, labels: pullLabels(chainId) }),
  ]);
  return found[0]!.name;
}

/** The three layers of the image. */
async function pullImage(): Promise<[string, string, string]> {
  const low = await pullLazily(LOW);
  const middle = await pullLazily(MIDDLE, low);
  return [low, middle, await pullLazily(TOP, middle)];
}

async function unpackOn(parent: string, name: string): Promise<void> {
  await snapshotter.client.prepare(`${name}-active`, parent);
  await snapshotter.client.commit(name, `${name}-active`);
}

function decisions(): unknown[] {
  return snapshotter.log.flatMap((line) => (line['decision'] === undefined ? [] : [line]));
}

function lowerDirectories(mount: { readonly options: readonly string[] } | undefined): string[] {
  const option = mount?.options.find((text) => text.startsWith('lowerdir='));
  return option?.slice('lowerdir='.length).split(':') ?? [];
}

describe('a layer that is converted', () => {
  test('is there at once, as the snapshot that containerd looks for, and takes no directory and no mount', async () => {
    const [low] = await pullImage();
    expect(readdirSync(join(root, 'state/snapshots'))).toEqual([]);
    expect(mounts.calls).toEqual([]);
    expect(mounts.expected).toBe(3);
    expect(await snapshotter.client.usage(low)).toEqual({ size: 0, inodes: 0 });
    expect(answers.asked[0]).toEqual({
      chainId: LOW,
      image: {
        registry: 'reg.example.com',
        repository: 'lib/image',
        manifestDigest: digestOf('manifest 1'),
      },
      waitMs: WAIT_MS,
    });
    expect(decisions()).toMatchObject(
      CHAINS.map(({ chainId }) => ({
        level: 30,
        msg: 'layer is read lazily',
        image: 'reg.example.com/lib/image:1',
        layer: digestOf(`layer of ${chainId}`),
        chainId,
      })),
    );
  });

  test('is one snapshot on each parent, however often it is asked for, and is looked up no more', async () => {
    const low = await pullLazily(LOW);
    const keys = Array.from({ length: 20 }, (_, index) => `extract ${index}`);
    const all = keys.map((key) => snapshotter.client.prepare(key, low, pullLabels(MIDDLE)));
    for (const asked of all) await expect(asked).rejects.toEqual(refusal(status.ALREADY_EXISTS));
    await unpackOn('', 'other');
    await pullLazily(MIDDLE, 'other');
    expect((await snapshotter.client.list()).length).toBe(4);
    const before = answers.asked.length;
    await pullLazily(MIDDLE, low);
    expect(answers.asked.length).toBe(before);
  });

  test('keeps the label by which containerd finds it, whatever labels it is given', async () => {
    const name = await pullLazily(LOW);
    const { labels } = await snapshotter.client.update({ name, labels: { other: '1' } });
    expect(labels).toEqual({ other: '1', 'containerd.io/snapshot.ref': LOW });
  });

  test('is refused on a parent that is not there or not committed, and under a key that is taken', async () => {
    const { client } = snapshotter;
    await client.prepare('a');
    const labels = pullLabels(LOW);
    await expect(client.prepare('x', 'missing', labels)).rejects.toEqual(refusal(status.NOT_FOUND));
    await expect(client.prepare('x', 'a', labels)).rejects.toEqual(refusal(status.INVALID_ARGUMENT));
    await expect(client.prepare('a', '', labels)).rejects.toEqual(refusal(status.ALREADY_EXISTS));
    expect(answers.asked).toEqual([]);
    expect((await client.list()).length).toBe(1);
  });
});

describe('what stands on converted layers', () => {
  test('is mounted on one device, of the topmost', async () => {
    const [, , top] = await pullImage();
    const [active] = await snapshotter.client.prepare('container', top);
    expect(active).toMatchObject({ type: 'overlay', source: 'overlay' });
    expect(lowerDirectories(active)).toEqual([mounts.directory(TOP)]);
    const [view] = await snapshotter.client.view('view', top);
    expect(view).toMatchObject({ type: 'bind', source: mounts.directory(TOP), options: ['ro', 'rbind'] });
    expect(mounts.calls).toEqual([`mount ${TOP}`]);
  });

  test('has the ordinary layers above it on top, and those below it not at all', async () => {
    await unpackOn('', 'ordinary-low');
    const lazy = await pullLazily(MIDDLE, 'ordinary-low');
    await unpackOn(lazy, 'ordinary-3');
    await unpackOn('ordinary-3', 'ordinary-4');
    const [mount] = await snapshotter.client.prepare('container', 'ordinary-4');
    const directory = (id: number) => join(root, 'state/snapshots', String(id), 'fs');
    expect(lowerDirectories(mount)).toEqual([directory(4), directory(3), mounts.directory(MIDDLE)]);
  });

  test('is unmounted when the last that uses it is removed or committed, over restarts too', async () => {
    const [, middle, top] = await pullImage();
    const { client } = snapshotter;
    await client.prepare('c1', top);
    await client.view('v1', top);
    await client.prepare('c2', middle);
    await client.commit('from-c2', 'c2');
    expect(mounts.calls).toEqual([`mount ${TOP}`, `mount ${MIDDLE}`, `unmount ${MIDDLE}`]);
    await client.remove('c1');
    await restart();
    expect(mounts.mounted).toEqual(new Set([TOP]));
    await snapshotter.client.remove('v1');
    expect(mounts.mounted).toEqual(new Set());
  });

  test('is mounted again when its mounts are asked for after the machine was restarted', async () => {
    const [, , top] = await pullImage();
    const prepared = await snapshotter.client.prepare('c1', top);
    await snapshotter.stop();
    mounts.mounted.clear();
    await start();
    expect(mounts.mounted).toEqual(new Set());
    expect(await snapshotter.client.mounts('c1')).toEqual(prepared);
    expect(mounts.mounted).toEqual(new Set([TOP]));
  });

  test('is kept mounted through removals and new containers at the same time', async () => {
    const [, , top] = await pullImage();
    const { client } = snapshotter;
    const lives = Array.from({ length: 50 }, async (_, index) => {
      await client.prepare(`c${index}`, top);
      expect(mounts.mounted).toEqual(new Set([TOP]));
      await client.remove(`c${index}`);
    });
    await Promise.all(lives);
    expect(mounts.mounted).toEqual(new Set());
  });

  test('is mounted again if it was about to be unmounted', async () => {
    const low = await pullLazily(LOW);
    const { client } = snapshotter;
    await client.prepare('c1', low);
    const held = Promise.withResolvers<void>();
    const unmount = vi.spyOn(mounts, 'unmount').mockImplementationOnce(async (chainId) => {
      await held.promise;
      mounts.mounted.delete(chainId);
    });
    const removed = client.remove('c1');
    await vi.waitFor(() => expect(unmount).toHaveBeenCalled(), { timeout: 30_000 });
    const prepared = client.prepare('c2', low);
    await vi.waitFor(() => client.stat('c2'), { timeout: 30_000 });
    held.resolve();
    await Promise.all([removed, prepared]);
    expect(mounts.mounted).toEqual(new Set([LOW]));
  });

  test('is not made when its layers cannot be mounted, and leaves nothing', async () => {
    const [, , top] = await pullImage();
    mounts.failure = new Error('no proxy answers');
    const { client } = snapshotter;
    await expect(client.prepare('c1', top)).rejects.toMatchObject({
      code: status.UNAVAILABLE,
      details: expect.stringContaining('reg.example.com/lib/image: no proxy answers'),
    });
    expect((await client.list()).length).toBe(3);
    expect(readdirSync(join(root, 'state/snapshots'))).toEqual([]);
    mounts.failure = null;
    await client.prepare('c1', top);
  });

  test('leaves no mount when unmounting has failed once', async () => {
    const low = await pullLazily(LOW);
    await snapshotter.client.prepare('c1', low);
    const unmount = vi.spyOn(mounts, 'unmount').mockRejectedValueOnce(new Error('busy'));
    await snapshotter.client.remove('c1');
    await snapshotter.client.remove(low);
    expect(unmount).toHaveBeenCalledTimes(2);
    expect(mounts.mounted).toEqual(new Set());
  });

  test('is unmounted at the start, if a crash came in between', async () => {
    const low = await pullLazily(LOW);
    await snapshotter.client.prepare('c1', low);
    vi.spyOn(mounts, 'unmount').mockRejectedValueOnce(new Error('killed before'));
    await snapshotter.client.remove('c1');
    expect(mounts.mounted).toEqual(new Set([LOW]));
    await restart();
    await vi.waitFor(() => expect(mounts.mounted).toEqual(new Set()), { timeout: 30_000 });
  });
});

describe('a layer that is not converted', () => {
  const OTHER = digestOf('other');

  test.each([
    ['unknown', { kind: 'unavailable', reason: 'nobody knows it' }, 'nobody knows it'],
    ['pending', { kind: 'pending', state: 'running' }, `its conversion is still running after ${WAIT_MS} ms`],
  ] as const)('is unpacked as ever, and the log says why: %s', async (_, answer, reason) => {
    answers.answers.set(OTHER, answer);
    const [mount] = await snapshotter.client.prepare('x', '', pullLabels(OTHER));
    expect(mount).toMatchObject({ type: 'bind', source: join(root, 'state/snapshots/1/fs') });
    expect(decisions()).toMatchObject([
      { level: 30, msg: 'layer is downloaded and unpacked', chainId: OTHER, reason },
    ]);
  });

  test('is unpacked as ever when looking it up fails', async () => {
    answers.delay = () => Promise.reject(new Error('a bug'));
    await snapshotter.client.prepare('x', '', pullLabels(LOW));
    expect(decisions()).toMatchObject([{ reason: 'it could not be looked up: a bug' }]);
  });

  test('is unpacked as ever when the runtime does not say of which image it is', async () => {
    const { client } = snapshotter;
    const ref = { 'containerd.io/snapshot.ref': LOW };
    await client.prepare('x', '', ref);
    await client.prepare('y', '', {
      ...pullLabels(LOW),
      'containerd.io/snapshot/cri.image-ref': 'Not An Image',
    });
    await client.prepare('z', '', {
      ...pullLabels(LOW),
      'containerd.io/snapshot/cri.manifest-digest': 'sha256:1',
    });
    await client.prepare('w', '', pullLabels('none'));
    expect(decisions()).toMatchObject([
      { reason: expect.stringContaining('disable_snapshot_annotations = false') },
      { reason: expect.stringContaining('not an image reference') },
      { reason: expect.stringContaining('is no digest: sha256:1') },
      { reason: '"none" is no chain ID' },
    ]);
    expect(answers.asked).toEqual([]);
  });

  test('waits for its conversion no longer than all layers of its image together may', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      const layers = [OTHER, digestOf('other 2'), digestOf('other 3')];
      for (const chainId of layers) {
        await snapshotter.client.prepare(`x ${chainId}`, '', pullLabels(chainId));
        vi.advanceTimersByTime(0.75 * WAIT_MS);
      }
      await snapshotter.client.prepare('other image', '', pullLabels(OTHER, '2'));
      await snapshotter.client.prepare('second pull', '', pullLabels(OTHER));
    } finally {
      vi.useRealTimers();
    }
    expect(answers.asked.map(({ waitMs }) => waitMs)).toEqual([WAIT_MS, 0.25 * WAIT_MS, 0, WAIT_MS, WAIT_MS]);
  });

  test('is unpacked as ever when the daemon ends meanwhile', async () => {
    answers.delay = (signal) => unlessAborted(new Promise(() => {}), signal!);
    const pulled = snapshotter.client.prepare('x', '', pullLabels(LOW));
    await vi.waitFor(() => expect(answers.asked.length).toBe(1), { timeout: 30_000 });
    await snapshotter.server.close();
    expect(await pulled).toMatchObject([{ type: 'bind' }]);
    expect(decisions()).toMatchObject([{ reason: expect.stringContaining('the node daemon is ending') }]);
    expect(existsSync(snapshotter.socketPath)).toBe(false);
  });

  test('is not made at all when the runtime gives up', async () => {
    answers.delay = (signal) => unlessAborted(new Promise(() => {}), signal!);
    const controller = new AbortController();
    const pulled = snapshotter.client.prepare('x', '', pullLabels(LOW), controller.signal);
    await vi.waitFor(() => expect(answers.asked.length).toBe(1), { timeout: 30_000 });
    controller.abort();
    await expect(pulled).rejects.toEqual(refusal(status.CANCELLED));
    // Its turn comes after the other's end.
    answers.delay = async () => {};
    await expect(snapshotter.client.prepare('x', '', pullLabels(LOW))).rejects.toEqual(
      refusal(status.ALREADY_EXISTS),
    );
    expect(await snapshotter.client.list()).toMatchObject([{ kind: 'COMMITTED' }]);
  });
});

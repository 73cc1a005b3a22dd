/** The rules of containerd's own test suite for snapshotters that need real mounts, and those about crashes. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { requireCapability } from './support/capabilities.ts';
import { unmountBelow } from './support/mounts.ts';
import { withMounted } from './support/snapshot-mounts.ts';
import { SnapshotsClient } from './support/snapshots-client.ts';
import { startSnapshotter, type TestSnapshotter } from './support/snapshotter.ts';
import { diffTrees, readTree } from './support/tree.ts';

/** What a layer does to the directory that shows those below it. */
type Change = (root: string) => void;

const file =
  (path: string, content: string, mode = 0o644): Change =>
  (root) => {
    writeFileSync(join(root, path), content);
    chmodSync(join(root, path), mode);
  };
const directory =
  (path: string, mode = 0o755): Change =>
  (root) => {
    mkdirSync(join(root, path));
    chmodSync(join(root, path), mode);
  };
const owner =
  (path: string, id: number): Change =>
  (root) =>
    chownSync(join(root, path), id, id);
const gone =
  (path: string): Change =>
  (root) =>
    rmSync(join(root, path), { recursive: true });
const link =
  (from: string, to: string): Change =>
  (root) =>
    linkSync(join(root, from), join(root, to));

describe.skipIf(!requireCapability('root'))('the snapshotter', () => {
  let root: string;
  let target: string;
  let flat: string;
  let snapshotter: TestSnapshotter;
  let client: SnapshotsClient;
  let running: ChildProcess | null = null;

  beforeEach(async () => {
    root = mkdtempSync(join(tmpdir(), 'dadi-sn-'));
    [target, flat] = ['mnt', 'flat'].map((name) => join(root, name)) as [string, string];
    for (const path of [target, flat]) mkdirSync(path);
    snapshotter = await startSnapshotter(root);
    client = snapshotter.client;
  });

  afterEach(async () => {
    await killRunning();
    await snapshotter.stop();
    await unmountBelow(root);
    rmSync(root, { recursive: true });
  });

  async function expectFlat(): Promise<void> {
    const [expected, actual] = await Promise.all([readTree(flat), readTree(target)]);
    expect(diffTrees(expected, actual, (field) => field === 'mtimeNs')).toEqual([]);
  }

  /** Commits a layer on another, as a runtime that unpacks or builds does. */
  async function commitLayer(parent: string, name: string, changes: readonly Change[]): Promise<void> {
    await withMounted(await client.prepare(`${name}-active`, parent), target, () => {
      for (const change of changes) for (const where of [target, flat]) change(where);
    });
    await client.commit(name, `${name}-active`);
  }

  test('shows the layers of an image as one tree, whatever a layer changes of those below', async () => {
    const layers: Change[][] = [
      [
        // A file that is changed.
        directory('etc', 0o700),
        file('etc/hosts', 'mydomain 10.0.0.1'),
        file('etc/profile', 'PATH=/bin'),
        // A directory that is removed and made again.
        directory('lib', 0o700),
        file('lib/hidden', ''),
        // Owners that change.
        directory('a', 0o700),
        directory('a/b', 0o700),
        file('a/b/file', 'hello'),
        // Modes and owners of directories that come and go.
        ...['1', '2', '3', '4', '5'].map((name) => directory(name, 0o700)),
        ...['1', '2', '3', '5'].map((name) => owner(name, 1)),
        file('4/f', '...'),
        file('5/f', '...'),
        // Files that are removed.
        file('foo', 'foo\n', 0o777),
        file('bar', 'bar\n'),
        // Files that are moved.
        directory('d1', 0o700),
        file('d1/f1', 'Hello'),
        directory('d2', 0o700),
        file('d2/f2', '...'),
      ],
      [
        file('etc/hosts', 'mydomain 10.0.0.2'),
        file('etc/profile', 'PATH=/bin', 0o666),
        ...[gone('lib'), directory('lib', 0o700), file('lib/not-hidden', '')],
        ...['a', 'a/b', 'a/b/file'].map((path) => owner(path, 1)),
        ...[owner('2', 0), gone('3'), owner('4', 1), owner('4/f', 1)],
        gone('bar'),
        directory('d3', 0o700),
        ...[file('d3/f1', 'Hello'), gone('d1'), link('d2/f2', 'd3/f2'), gone('d2/f2')],
      ],
      [
        ...[directory('3', 0o700), owner('3', 1), gone('5'), directory('5', 0o700), owner('5', 1)],
        file('lib/newfile', ''),
      ],
      [],
    ];
    let parent = '';
    for (const [index, changes] of layers.entries()) {
      await commitLayer(parent, `layer ${index}`, changes);
      parent = `layer ${index}`;
      if (index === 1) await withMounted(await client.view('view', parent), target, expectFlat);
    }
    await withMounted(await client.view('top view', parent), target, expectFlat);
    await withMounted(await client.prepare('container', parent), target, expectFlat);
  });

  test('shows 128 layers as one tree', async () => {
    const bottom = [
      file('bottom', 'way at the bottom\n'),
      directory('add'),
      directory('only'),
      file('only/bottom', 'bye\n'),
    ];
    await commitLayer('', 'layer 0', bottom);
    for (let index = 1; index < 128; index++) {
      const { fs } = await prepared(`layer ${index}`, `layer ${index - 1}`);
      // What an overlay writes for this, without 128 mounts: each is a process on a busy machine.
      for (const change of [directory('add'), directory('only')]) change(fs);
      for (const where of [fs, flat]) {
        file('overwritten', `${index}\n`)(where);
        file(`add/file-${index}`, 'same\n')(where);
        file(`only/file-${index}`, 'only me\n')(where);
      }
      await client.commit(`layer ${index}`, `layer ${index} active`);
    }
    await withMounted(await client.view('view', 'layer 127'), target, expectFlat);
    await commitLayer('layer 127', 'layer 128', [gone('only'), directory('only'), file('bottom', 'top\n')]);
    await withMounted(await client.view('top view', 'layer 128'), target, expectFlat);
  });

  /** An active snapshot and its own directory. */
  async function prepared(name: string, parent: string): Promise<{ fs: string }> {
    const [mount] = await client.prepare(`${name} active`, parent);
    const fs = mount?.options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length);
    return { fs: fs ?? mount!.source };
  }

  test('lets nobody write to a view', async () => {
    await commitLayer('', 'one', [file('foo', 'foo')]);
    await commitLayer('one', 'two', [file('bar', 'bar')]);
    const views = [await client.view('v0'), await client.view('v1', 'one'), await client.view('v2', 'two')];
    for (const mounts of views) {
      await withMounted(mounts, target, () => {
        expect(() => writeFileSync(join(target, 'written'), '')).toThrow('EROFS');
      });
    }
  });

  test('makes a root directory that all may enter, whatever the umask, owned as the one below', async () => {
    const umask = process.umask(0o077);
    try {
      await commitLayer('', 'one', [owner('.', 7)]);
      await withMounted(await client.prepare('container', 'one'), target, () => {
        expect(statSync(target)).toMatchObject({ mode: 0o040755, uid: 7, gid: 7 });
      });
    } finally {
      process.umask(umask);
    }
  });

  test('says how much a snapshot itself holds: no holes, and what has several names once', async () => {
    await commitLayer('', 'below', [file('below', 'x'.repeat(1 << 20))]);
    const grow: Change = (where) => {
      writeFileSync(join(where, 'data'), Buffer.alloc(256 << 10, 1));
      linkSync(join(where, 'data'), join(where, 'again'));
      writeFileSync(join(where, 'sparse'), '');
      truncateSync(join(where, 'sparse'), 1 << 30);
      mkdirSync(Buffer.from(`${where}/d\xff`, 'latin1'));
      appendFileSync(Buffer.from(`${where}/d\xff/\xfe`, 'latin1'), 'y');
    };
    const mounts = await client.prepare('active', 'below');
    await withMounted(mounts, target, () => grow(target));
    const active = await client.usage('active');
    // The root, data, sparse, the directory and what is in it.
    expect(active.inodes).toBe(5);
    expect(active.size).toBeGreaterThanOrEqual(256 << 10);
    expect(active.size).toBeLessThan(400 << 10);
    await client.commit('committed', 'active');
    expect(await client.usage('committed')).toEqual(active);
    expect(await client.usage('below')).toMatchObject({ inodes: 2 });
    await client.view('view', 'committed');
    expect(await client.usage('view')).toEqual({ size: 0, inodes: 0 });
    // Names that are no UTF-8 are no obstacle to removing them.
    await client.remove('view');
    await client.remove('committed');
    expect(readdirSync(join(root, 'state/snapshots'))).toEqual(['1']);
  });

  test('has after kill -9 all that it has acknowledged, and nothing else', async () => {
    await snapshotter.stop();
    const sure = new Set<string>();
    for (let round = 0; round < 2; round++) {
      const connected = await startProcess();
      const workers = [0, 1, 2, 3].map((worker) => churn(connected, `${round}-${worker}`, sure));
      await vi.waitFor(() => expect(sure.size).toBeGreaterThan(10 * (round + 1)), { timeout: 60_000 });
      await killRunning();
      await Promise.all(workers);
      connected.close();
      snapshotter = await startSnapshotter(root);
      const infos = await snapshotter.client.list();
      const names = new Set(infos.map(({ name }) => name));
      expect([...sure].filter((name) => !names.has(name))).toEqual([]);
      // Of each worker, the call that was under way is as if it had been made, or had not.
      expect([...names].filter((name) => !sure.has(name)).length).toBeLessThanOrEqual(4 * (round + 1));
      const directories = () => readdirSync(join(root, 'state/snapshots'));
      await vi.waitFor(() => expect(directories().length).toBe(infos.length), { timeout: 60_000 });
      const active = infos.find(({ kind }) => kind === 'ACTIVE');
      if (active !== undefined) {
        await withMounted(await snapshotter.client.mounts(active.name), target, () => readdirSync(target));
      }
      await snapshotter.stop();
    }
    snapshotter = await startSnapshotter(root);
  });

  async function startProcess(): Promise<SnapshotsClient> {
    const script = join(import.meta.dirname, 'support/snapshotter-process.ts');
    running = spawn(process.execPath, [script, root], { stdio: 'inherit' });
    const connected = new SnapshotsClient(join(root, 's.sock'));
    await vi.waitFor(() => connected.list(), { timeout: 60_000, interval: 50 });
    return connected;
  }

  async function killRunning(): Promise<void> {
    if (running === null || running.exitCode !== null) return;
    const ended = once(running, 'exit');
    running.kill('SIGKILL');
    await ended;
    running = null;
  }

  /** Makes, commits and removes until the process is killed, keeping account of what must be there. */
  async function churn(connected: SnapshotsClient, name: string, sure: Set<string>): Promise<void> {
    try {
      for (let count = 0, parent = ''; ; count++) {
        const [active, extra, committed] = ['a', 'x', 'c'].map((kind) => `${name}-${kind}${count}`) as [
          string,
          string,
          string,
        ];
        await connected.prepare(active, parent);
        sure.add(active);
        await connected.prepare(extra, parent);
        sure.add(extra);
        sure.delete(extra);
        await connected.remove(extra);
        sure.delete(active);
        await connected.commit(committed, active);
        sure.add(committed);
        parent = count % 10 === 9 ? '' : committed;
      }
    } catch (error) {
      // The process is gone.
      expect((error as { code?: status }).code).toBe(status.UNAVAILABLE);
    }
  }
});

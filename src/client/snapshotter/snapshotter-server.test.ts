import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { status } from '@grpc/grpc-js';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { SnapshotsClient } from '../../../test/support/snapshots-client.ts';
import { startSnapshotter, type TestSnapshotter } from '../../../test/support/snapshotter.ts';

let root: string;
let snapshotter: TestSnapshotter;
let client: SnapshotsClient;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'dadi-sn-'));
  await start();
});

afterEach(async () => {
  await snapshotter.stop();
  rmSync(root, { recursive: true });
});

async function start(): Promise<void> {
  snapshotter = await startSnapshotter(root);
  client = snapshotter.client;
}

async function restart(): Promise<void> {
  await snapshotter.stop();
  await start();
}

const refusal = (code: status) => expect.objectContaining({ code });

async function commitOn(parent: string, name: string): Promise<void> {
  await client.prepare(`${name}-active`, parent);
  await client.commit(name, `${name}-active`);
}

/** Two committed, two active, two viewed, with and without parents. */
async function makeSome(): Promise<void> {
  await commitOn('', 'c1');
  await commitOn('c1', 'c2');
  await client.prepare('a1', 'c2');
  await client.prepare('a2');
  await client.view('v1', 'c2');
  await client.view('v2');
}

describe('a snapshot', () => {
  test('has name, kind, parent and time as it was made, over a restart too', async () => {
    const before = Date.now();
    await makeSome();
    const after = Date.now();
    await restart();
    const infos = new Map((await client.list()).map((info) => [info.name, info]));
    const kindAndParent = [...infos].map(([name, info]) => [name, info.kind, info.parent]);
    expect(kindAndParent).toEqual([
      ['c1', 'COMMITTED', ''],
      ['c2', 'COMMITTED', 'c1'],
      ['a1', 'ACTIVE', 'c2'],
      ['a2', 'ACTIVE', ''],
      ['v1', 'VIEW', 'c2'],
      ['v2', 'VIEW', ''],
    ]);
    for (const [name, info] of infos) {
      expect(await client.stat(name)).toEqual(info);
      expect(info.updated_at).toEqual(info.created_at);
      const { seconds, nanos } = info.created_at!;
      const createdMs = seconds * 1000 + nanos / 1e6;
      expect(createdMs).toBeGreaterThanOrEqual(before);
      expect(createdMs).toBeLessThanOrEqual(after);
    }
  });

  test('takes a key or a name that no other has', async () => {
    await makeSome();
    for (const taken of ['a1', 'v1', 'c1']) {
      await expect(client.prepare(taken)).rejects.toEqual(refusal(status.ALREADY_EXISTS));
      await expect(client.view(taken, 'c1')).rejects.toEqual(refusal(status.ALREADY_EXISTS));
      await expect(client.commit(taken, 'a1')).rejects.toEqual(refusal(status.ALREADY_EXISTS));
    }
    await expect(client.prepare('')).rejects.toEqual(refusal(status.INVALID_ARGUMENT));
    expect((await client.list()).length).toBe(6);
    expect(readdirSync(join(root, 'state/snapshots')).length).toBe(6);
  });

  test('stands on a committed one, or on none', async () => {
    await makeSome();
    await expect(client.prepare('x', 'missing')).rejects.toEqual(refusal(status.NOT_FOUND));
    await expect(client.prepare('x', 'a1')).rejects.toEqual(refusal(status.INVALID_ARGUMENT));
    await expect(client.view('x', 'v1')).rejects.toEqual(refusal(status.INVALID_ARGUMENT));
    await expect(client.stat('x')).rejects.toEqual(refusal(status.NOT_FOUND));
  });

  test('is committed only while it is active, under another name and with the labels of the commit', async () => {
    await client.prepare('a', '', { mine: '1', both: '1' });
    await client.commit('c', 'a', { both: '2' });
    await expect(client.stat('a')).rejects.toEqual(refusal(status.NOT_FOUND));
    expect((await client.stat('c')).labels).toEqual({ both: '2' });
    await client.view('v', 'c');
    await expect(client.commit('c2', 'v')).rejects.toEqual(refusal(status.FAILED_PRECONDITION));
    await expect(client.commit('c2', 'c')).rejects.toEqual(refusal(status.FAILED_PRECONDITION));
    await expect(client.commit('c2', 'missing')).rejects.toEqual(refusal(status.NOT_FOUND));
  });

  test('is not mounted once it is committed, nor when it is missing', async () => {
    await makeSome();
    await expect(client.mounts('c1')).rejects.toEqual(refusal(status.FAILED_PRECONDITION));
    await expect(client.mounts('missing')).rejects.toEqual(refusal(status.NOT_FOUND));
    for (const call of [client.usage('missing'), client.update({ name: 'missing' })]) {
      await expect(call).rejects.toEqual(refusal(status.NOT_FOUND));
    }
  });

  test('keeps what is below it, until it is removed', async () => {
    await makeSome();
    for (const name of ['c1', 'c2']) {
      await expect(client.remove(name)).rejects.toEqual(refusal(status.FAILED_PRECONDITION));
    }
    for (const name of ['a1', 'v1', 'c2', 'c1', 'a2', 'v2']) await client.remove(name);
    await expect(client.remove('c1')).rejects.toEqual(refusal(status.NOT_FOUND));
    expect(await client.list()).toEqual([]);
    expect(readdirSync(join(root, 'state/snapshots'))).toEqual([]);
  });

  test('leaves its name to others once it is removed', async () => {
    await commitOn('', 'c');
    await client.prepare('again', 'c');
    await client.remove('again');
    await client.view('again', 'c');
    await client.remove('again');
    await client.prepare('again');
    await client.remove('c');
    await client.commit('c', 'again');
    expect((await client.stat('c')).parent).toBe('');
  });
});

describe('labels', () => {
  test('are replaced, or set one by one, and nothing else is', async () => {
    await makeSome();
    for (const name of ['c1', 'c2', 'a1', 'a2', 'v1', 'v2']) {
      const made = await client.stat(name);
      const all = await client.update({ name, parent: 'other', labels: { l1: 'v1', l2: 'v2', l3: 'v3' } });
      expect(all).toEqual({ ...made, labels: { l1: 'v1', l2: 'v2', l3: 'v3' }, updated_at: all.updated_at });
      const labels = { l1: 'updated', l4: 'v4' };
      const some = await client.update({ name, labels }, 'labels.l1', 'labels.l2');
      expect(some.labels).toEqual({ l1: 'updated', l3: 'v3' });
      expect((await client.update({ name, labels: { l4: 'v4' } }, 'labels')).labels).toEqual({ l4: 'v4' });
      for (const field of ['parent', 'name', 'kind', 'created_at', 'label.l1']) {
        const refused = client.update({ name, labels: {} }, 'labels', field);
        await expect(refused).rejects.toEqual(refusal(status.INVALID_ARGUMENT));
      }
      expect((await client.stat(name)).labels).toEqual({ l4: 'v4' });
      expect((await client.update({ name })).labels).toEqual({});
    }
  });
});

describe('a list', () => {
  test('holds all snapshots however many there are, or those for which a filter holds', async () => {
    await commitOn('', 'base');
    const keys = Array.from({ length: 250 }, (_, index) => `k${index}`);
    await Promise.all(keys.map((key) => client.prepare(key, 'base', { index: key })));
    expect((await client.list()).map(({ name }) => name).sort()).toEqual(['base', ...keys].sort());
    const named = await client.list('name==base', 'kind==active,labels.index~="^k24[0-4]$"');
    expect(named.map(({ name }) => name).sort()).toEqual(['base', 'k240', 'k241', 'k242', 'k243', 'k244']);
    await expect(client.list('name=base')).rejects.toEqual(refusal(status.INVALID_ARGUMENT));
  });
});

describe('a start', () => {
  test('removes the directory of a snapshot that was never finished, and gives its number to no other', async () => {
    await commitOn('', 'c');
    await snapshotter.stop();
    mkdirSync(join(root, 'state/snapshots/7/fs'), { recursive: true });
    await start();
    await client.prepare('a');
    const left = () => expect(readdirSync(join(root, 'state/snapshots')).sort()).toEqual(['1', '8']);
    await vi.waitFor(left, { timeout: 30_000 });
  });

  test('forgets a snapshot whose directory is gone, unless others stand on it', async () => {
    await makeSome();
    await snapshotter.stop();
    for (const id of ['1', '4']) rmSync(join(root, 'state/snapshots', id), { recursive: true });
    await start();
    expect((await client.list()).map(({ name }) => name)).toEqual(['c1', 'c2', 'a1', 'v1', 'v2']);
  });

  test('replaces a socket that nobody listens on, and is refused one that somebody does', async () => {
    const socketPath = join(root, 'other.sock');
    const options = { socketPath, stateDirectory: join(root, 'other') };
    const listener = createServer().listen(socketPath);
    await expect(startSnapshotter(root, options)).rejects.toThrow('another process listens');
    listener.close();
    // A process that is killed removes no socket.
    const killed = `createServer().listen(${JSON.stringify(socketPath)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', `require('node:net').${killed}`]);
    expect(existsSync(socketPath)).toBe(true);
    const second = await startSnapshotter(root, options);
    expect(statSync(socketPath).mode & 0o777).toBe(0o600);
    await second.stop();
    await second.server.close();
    expect(existsSync(socketPath)).toBe(false);
  });

  test('is refused a state directory that another server has', async () => {
    const second = startSnapshotter(root, { socketPath: join(root, 'b.sock') });
    await expect(second).rejects.toMatchObject({ code: 'ERR_SNAPSHOTTER_IN_USE' });
  });
});

describe('a database that cannot be read', () => {
  test.each([
    ['broken', (path: string) => writeFileSync(path, 'x'.repeat(8192)), 'file is not a database'],
    [
      'of a later version',
      (path: string) => new Database(path).pragma('user_version = 9'),
      'run a newer one',
    ],
  ])('stops the start, and its path is told: %s', async (_, make, why) => {
    const stateDirectory = join(root, 'bad');
    mkdirSync(stateDirectory);
    make(join(stateDirectory, 'snapshots.db'));
    const started = startSnapshotter(root, { socketPath: join(root, 'b.sock'), stateDirectory });
    await expect(started).rejects.toThrow(
      expect.objectContaining({
        message: expect.stringMatching(new RegExp(`${stateDirectory}/snapshots.db: .*${why}`)),
      }),
    );
  });
});

describe('cleaning up', () => {
  test('removes directories of no snapshot, and none that is being made', async () => {
    const stray = join(root, 'state/snapshots/999/fs');
    mkdirSync(stray, { recursive: true });
    const keys = Array.from({ length: 30 }, (_, index) => `k${index}`);
    await Promise.all(keys.flatMap((key) => [client.prepare(key), client.cleanup()]));
    expect(existsSync(stray)).toBe(false);
    expect(readdirSync(join(root, 'state/snapshots')).length).toBe(30);
  });
});

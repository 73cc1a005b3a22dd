import { spawn } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import process from 'node:process';
import { buffer } from 'node:stream/consumers';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { askDaemon } from '../src/client/node/admin-client.ts';
import type { MountStatus, NodeStatus } from '../src/client/node/node-status.ts';
import { digestOf } from '../src/oci/digest.ts';
import { requireCapability } from './support/capabilities.ts';
import { DadiNode } from './support/dadi-node.ts';
import { FakeRegistry } from './support/fake-registry.ts';
import { FaultyRelay } from './support/faulty-relay.ts';
import { imageDirectory, pullLazily } from './support/lazy-pull.ts';
import { ProcessError, run } from './support/processes.ts';
import { SnapshotsClient } from './support/snapshots-client.ts';
import { TestProxy } from './support/test-proxy.ts';
import { putTwoFileImage, type TwoFileImage } from './support/two-file-image.ts';

const MAIN = join(import.meta.dirname, '../src/cli/main.ts');
const FILE_BYTES = 4 * 1024 * 1024;

const WAIT = { timeout: 30_000 };

let images = 0;

describe.skipIf(!requireCapability('root', 'fuse', 'erofs'))('dadi node', () => {
  let scratch: string;
  let upstream: FakeRegistry;
  let proxy: TestProxy;
  let relay: FaultyRelay;
  let node: DadiNode;

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dnd-'));
    upstream = await FakeRegistry.start();
    proxy = await TestProxy.start({ upstreams: [{ name: 'reg.example', url: upstream.url }] });
    relay = await FaultyRelay.start(proxy.url);
    // The kernel names mounts without symbolic links.
    mkdirSync(join(scratch, 'real'));
    symlinkSync('real', join(scratch, 'n'));
    node = await DadiNode.start({
      directory: join(scratch, 'n'),
      proxies: [relay.url],
      config: { conversionWaitMs: 60_000, readTimeoutMs: 60_000, mirror: { listen: '127.0.0.1:0' } },
    });
  });

  beforeEach(async () => {
    if ((await askDaemon(adminSocket(), 'GET', '/healthz')) === null) await node.start();
  });

  afterAll(async () => {
    await node.remove();
    await relay.stop();
    await proxy.remove();
    await upstream.stop();
    expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(scratch);
    expect(processesNaming(scratch)).toEqual([]);
    rmSync(scratch, { recursive: true });
  });

  const adminSocket = () => join(node.runDirectory, 'node.sock');

  const makeImage = () => putTwoFileImage(upstream, ++images, FILE_BYTES);

  /** Asks for a container's root file system as containerd does after a pull; the directory of the image's files. */
  async function prepared(image: TwoFileImage, key: string): Promise<string> {
    const client = new SnapshotsClient(node.socketPath);
    try {
      const parent = await pullLazily(client, image);
      return imageDirectory(await client.prepare(`${key} of ${image.manifestDigest}`, parent));
    } finally {
      client.close();
    }
  }

  function dadi(...args: readonly string[]) {
    return run(process.execPath, [MAIN, 'node', ...args, '--config', join(node.directory, 'node.json')]);
  }

  async function mountOf({ layers }: TwoFileImage): Promise<MountStatus | undefined> {
    const { mounts } = (await askDaemon(adminSocket(), 'GET', '/status')) as NodeStatus;
    return mounts.find(({ chainId }) => chainId === layers.at(-1)?.chainId);
  }

  test('mounts a chain once for all who ask for it, reads what is read of it, and says so', async () => {
    const image = makeImage();
    const directories = await Promise.all(['a', 'b', 'c'].map((key) => prepared(image, key)));
    expect(new Set(directories).size).toBe(1);
    expect(node.mounts()).toEqual([directories[0]]);
    expect(await readFile(join(directories[0]!, 'file1'))).toEqual(image.files[0]);
    const { readiness, mounts, proxies } = JSON.parse((await dadi('status', '--json')).stdout) as NodeStatus;
    expect(readiness.isReady).toBe(true);
    expect(proxies).toMatchObject([{ restingMs: 0, lastError: null }]);
    expect(mounts).toMatchObject([
      {
        chainId: image.layers[1]?.chainId,
        image: 'reg.example/lib/a',
        isOpen: true,
        layers: 2,
        readErrors: 0,
      },
    ]);
    expect(mounts[0]?.bytesFetched).toBeGreaterThan(FILE_BYTES);
    expect(mounts[0]?.bytesFetched).toBeLessThan(mounts[0]!.imageBytes - FILE_BYTES / 2);
    expect((await dadi('status')).stdout).toMatch(/ready[\s\S]*reg\.example\/lib\/a +2 /);
  });

  test('reads that were under way when it was killed go on with the next one, and what was cached needs no proxy', async () => {
    const image = makeImage();
    const directory = await prepared(image, 'a');
    expect(await readFile(join(directory, 'file1'))).toEqual(image.files[0]);
    relay.fault = (path) => (path.includes('/blobs/') ? { kind: 'stall', afterBytes: 0 } : null);
    const reader = spawn('cat', [join(directory, 'file2')], { stdio: ['ignore', 'pipe', 'inherit'] });
    const read = buffer(reader.stdout);
    await vi.waitFor(async () => expect((await mountOf(image))?.readsUnderWay).toBeGreaterThan(0), WAIT);
    await relay.stop();
    await node.kill();
    await node.start();
    expect(await uncached(join(directory, 'file1'))).toEqual(image.files[0]);
    expect(await mountOf(image)).toMatchObject({ isOpen: true });
    relay.fault = () => null;
    await relay.resume();
    expect(await read).toEqual(image.files[1]);
    expect(await prepared(image, 'b')).toBe(directory);
  });

  test('is replaced without its images being unmounted, and stopped with all of them', async () => {
    const image = makeImage();
    const directory = await prepared(image, 'a');
    await node.stop();
    expect(node.mounts()).toContain(directory);
    await node.start();
    expect(await readFile(join(directory, 'file2'))).toEqual(image.files[1]);
    expect((await dadi('stop')).stdout).toMatch(/the daemon was stopped/);
    expect(node.mounts()).toEqual([]);
    await node.start();
    expect(await prepared(image, 'b')).toBe(directory);
    expect(await readFile(join(directory, 'file1'))).toEqual(image.files[0]);
    await node.kill();
    expect((await dadi('stop')).stdout).toMatch(/no daemon was running; nothing any more of 1 images/);
    expect(node.mounts()).toEqual([]);
  });

  test('is not stopped while containers use its images, unless it is forced', async () => {
    const image = makeImage();
    const directory = await prepared(image, 'a');
    const [overlay, upper, work] = ['o', 'u', 'w'].map((name) => {
      mkdirSync(join(scratch, name));
      return join(scratch, name);
    });
    const written = `upperdir=${upper},workdir=${work}`;
    const mountOverlay = (lower: string) =>
      run('mount', ['-t', 'overlay', 'overlay', '-o', `lowerdir=${lower},${written}`, overlay!], {
        cwd: node.runDirectory,
      });
    const refused = () =>
      expect(dadi('stop')).rejects.toThrow(`containers use what would be unmounted (${overlay})`);
    // A view, and how containerd names directories of which there are many.
    for (const mount of [
      () => run('mount', ['--bind', directory, overlay!]),
      () => mountOverlay(relative(realpathSync(node.runDirectory), directory)),
    ]) {
      await mount();
      await refused().finally(() => run('umount', [overlay!]));
    }
    await mountOverlay(directory);
    try {
      await refused();
      expect(await readFile(join(directory, 'file1'))).toEqual(image.files[0]);
      await dadi('stop', '--force');
      expect(node.mounts()).toEqual([]);
    } finally {
      await run('umount', [overlay!]);
    }
  });

  test('a mount that cannot be taken up now stays, and its readers wait until it is', async () => {
    const image = makeImage();
    const directory = await prepared(image, 'a');
    const record = join(dirname(directory), 'mount.json');
    const holder = join(dirname(directory), 'work', 'holder');
    await node.kill();
    // Neither can be read, nor told to be missing.
    renameSync(record, join(scratch, 'record'));
    mkdirSync(record);
    renameSync(holder, join(scratch, 'holder'));
    symlinkSync('holder', holder);
    await node.start();
    expect(node.mounts()).toContain(directory);
    expect((await dadi('status')).stdout).toContain('mounts of an earlier daemon: 1 cannot be taken up yet');
    writeFileSync(join(scratch, 'file2'), image.files[1]!);
    const reading = run('cmp', [join(scratch, 'file2'), join(directory, 'file2')]);
    rmdirSync(record);
    renameSync(join(scratch, 'record'), record);
    await expect(prepared(image, 'b')).rejects.toMatchObject({ code: status.UNAVAILABLE });
    rmSync(holder);
    renameSync(join(scratch, 'holder'), holder);
    expect(await prepared(image, 'c')).toBe(directory);
    await reading;
    expect(await mountOf(image)).toMatchObject({ target: directory });
  });

  test('a mount that somebody else took down is made anew for who asks next', async () => {
    const image = makeImage();
    const directory = await prepared(image, 'a');
    await expect(run('umount', ['-f', join(dirname(directory), 'work', 'device')])).rejects.toThrow('busy');
    await vi.waitFor(async () => expect(await mountOf(image)).toBe(undefined), WAIT);
    expect(node.mounts()).not.toContain(directory);
    expect(await prepared(image, 'b')).toBe(directory);
    expect(await readFile(join(directory, 'file1'))).toEqual(image.files[0]);
  });

  test('a second one does not start beside it, and says whose the run directory is', async () => {
    await expect(dadi()).rejects.toThrow(
      `another dadi node (process ${node.pid}) runs with ${node.runDirectory}`,
    );
  });

  test('reads the log level again when it is told to, and says what needs a restart', async () => {
    const path = join(node.directory, 'node.json');
    const config = JSON.parse(readFileSync(path, 'utf8')) as object;
    writeFileSync(path, JSON.stringify({ ...config, logLevel: 'debug', readTimeoutMs: 5_000 }));
    process.kill(node.pid, 'SIGHUP');
    const logged = (msg: RegExp) => node.logged().find((line) => msg.test(String(line['msg'])));
    await vi.waitFor(
      () => expect(logged(/restart only/)).toMatchObject({ needRestart: ['readTimeoutMs'] }),
      WAIT,
    );
    expect(logged(/read again/)).toMatchObject({ logLevel: 'debug' });
  });

  test('told to read its configuration while it starts, it starts', async () => {
    await node.stop();
    const lock = join(node.runDirectory, 'node.lock');
    const before = readFileSync(lock, 'utf8');
    const started = node.start();
    const pid = await vi.waitFor(
      () => {
        const text = readFileSync(lock, 'utf8');
        expect(text).toMatch(/^\d+$/);
        expect(text).not.toBe(before);
        return Number(text);
      },
      { ...WAIT, interval: 2 },
    );
    process.kill(pid, 'SIGHUP');
    await started;
    expect(node.pid).toBe(pid);
  });

  test('its cache is listed by layer, and trimmed', async () => {
    const image = makeImage();
    const directory = await prepared(image, 'a');
    expect(await readFile(join(directory, 'file1'))).toEqual(image.files[0]);
    const cache = (...args: readonly string[]) =>
      run(process.execPath, [MAIN, 'cache', ...args, '--node', adminSocket()]);
    expect((await cache('ls')).stdout).toMatch(/reg\.example\/lib\/a +sha256:\w{64} +[\d.]+ MB .* mounted\n/);
    expect((await cache('trim', '--to', '1M')).stdout).toMatch(/^removed [\d.]+ MB, /);
    expect(await readFile(join(directory, 'file2'))).toEqual(image.files[1]);
  });

  test('what it counts, for mounts and for pulls, stands in the documentation', async () => {
    const image = makeImage();
    await prepared(image, 'a');
    const { mirrorUrl } = (await askDaemon(adminSocket(), 'GET', '/status')) as NodeStatus;
    const path = (name: string) => `/v2/lib/a/${name}?ns=reg.example`;
    for (const name of [`manifests/${image.manifestDigest}`, `blobs/${digestOf('none')}`]) {
      await (await fetch(new URL(path(name), mirrorUrl ?? ''))).arrayBuffer();
    }
    // A request is counted when its connection is done with it.
    await vi.waitFor(async () => {
      const { stdout } = await run('curl', [
        '-s',
        '--unix-socket',
        join(node.runDirectory, 'node.sock'),
        'http://dadi/metrics',
      ]);
      const names = new Set(stdout.match(/(?<=^# TYPE )dadi_node_(?!process_|nodejs_)\w+/gm));
      const documented = readFileSync(join(import.meta.dirname, '../docs/node.md'), 'utf8');
      expect(names.size).toBeGreaterThan(5);
      for (const name of names) expect(documented).toContain(`\`${name}\``);
      for (const sample of [
        'mounts [1-9]',
        'mirror_requests_total{kind="manifest",method="GET",status="2xx"} 1',
        'mirror_requests_total{kind="blob",method="GET",status="4xx"} 1',
        'mirror_sent_bytes_total{source="upstream"} [1-9]',
        'mirror_request_duration_seconds_count{kind="blob"} 1',
      ]) {
        expect(stdout).toMatch(new RegExp(`^dadi_node_${sample}`, 'm'));
      }
    }, WAIT);
  });
});

test('a configuration that cannot be used is refused with file, key and remedy', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'dnd-'));
  const path = join(directory, 'node.yaml');
  writeFileSync(path, 'proxies: [http://127.0.0.1:5100]\ncache: { maxBytes: 50GB }\nmirrors: null\n');
  const refused = await run(process.execPath, [MAIN, 'node', '--check-config', '-c', path]).catch(
    (error) => error,
  );
  expect(refused).toBeInstanceOf(ProcessError);
  expect(refused.stderr).toContain(`${path}: cache.maxBytes: is a text; write a`);
  expect(refused.stderr).toContain(`${path}: configuration: there is no key mirrors; did you mean mirror?`);
  rmSync(directory, { recursive: true });
});

/** A file's bytes from below the kernel's memory of it. */
async function uncached(path: string): Promise<Buffer> {
  await run('sh', ['-c', 'dd if="$1" iflag=nocache count=0 2>/dev/null', 'sh', path]);
  const file = await open(path, 'r');
  try {
    return await file.readFile();
  } finally {
    await file.close();
  }
}

/** Command lines of running processes that name a path. */
function processesNaming(path: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((name) => {
      try {
        const commandLine = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return commandLine.includes(path) ? [commandLine] : [];
      } catch {
        return [];
      }
    });
}

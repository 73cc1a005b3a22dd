import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { open, readdir, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { requireCapability } from './support/capabilities.ts';
import { layerOfDisk } from './support/device-layer.ts';
import { golden } from './support/golden.ts';
import { goldenTree } from './support/golden-tree.ts';
import { type LayoutRegistry, serveLayout } from './support/layout-registry.ts';
import { makeOverlaybdLayout, type OverlaybdLayoutOptions } from './support/overlaybd-layout.ts';
import { ProcessError, run } from './support/processes.ts';
import { diffTrees, readTree, type TreeField } from './support/tree.ts';

const MAIN = join(import.meta.dirname, '../src/cli/main.ts');
const REPOSITORY = 'lib/image';

let root: string;
let mountPoint: string;
let runDirectory: string;
let registry: LayoutRegistry | null = null;

beforeEach(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'dadi-mount-')));
  mountPoint = join(root, 'mnt');
  runDirectory = join(root, 'run');
  mkdirSync(mountPoint);
});

afterEach(async () => {
  try {
    for (const name of existsSync(runDirectory) ? readdirSync(runDirectory) : []) {
      if (/^[0-9a-f]{12}$/.test(name)) await dadi('umount', '--lazy', name).catch(() => {});
    }
    await expectNothingLeft();
  } finally {
    await registry?.close();
    registry = null;
    rmSync(root, { recursive: true });
  }
});

async function dadi(
  command: 'mount' | 'umount',
  ...args: string[]
): Promise<{ stdout: string; stderr: string }> {
  const directories = [
    '--run-dir',
    runDirectory,
    ...(command === 'mount' ? ['--cache-dir', join(root, 'cache')] : []),
  ];
  return run(process.execPath, [MAIN, command, ...directories, ...args], { cwd: root });
}

/** What a command that is to fail complained about, and its exit code. */
async function complaint(command: Promise<unknown>): Promise<string> {
  const error = await command.then(
    () => new Error('it did not fail'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof ProcessError)) throw error;
  return error.message;
}

/** No mount, loop device, process or file of a mount below the test's directory. */
async function expectNothingLeft(): Promise<void> {
  const inUse = () => ({
    mounts: readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(root)),
    loops: execFileSync('losetup', ['-l', '-n', '-O', 'BACK-FILE'])
      .toString()
      .split('\n')
      .filter((line) => line.includes(root)),
    processes: readdirSync('/proc').filter(
      (pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid && commandLine(pid).includes(root),
    ),
    files: existsSync(runDirectory) ? readdirSync(runDirectory) : [],
  });
  const nothing = { mounts: [], loops: [], processes: [], files: [] };
  // A process that has answered may take a moment to end.
  for (let tries = 0; tries < 100 && JSON.stringify(inUse()) !== JSON.stringify(nothing); tries++)
    await sleep(50);
  expect(inUse()).toEqual(nothing);
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}

async function serve(blobs: readonly Buffer[], options?: OverlaybdLayoutOptions, repository = REPOSITORY) {
  const made = await makeOverlaybdLayout(join(root, 'layout'), blobs, options);
  registry = await serveLayout(made.layout, repository);
  return { ...made, registry, image: `${registry.host}/${repository}:converted` };
}

/** A tree of some files, some MB, as an EROFS disk. */
function erofsDisk(): { disk: Buffer; tree: string } {
  const tree = join(root, 'tree');
  mkdirSync(join(tree, 'deep/er'), { recursive: true });
  for (let i = 0; i < 40; i++) {
    const line = `file ${i} of the tree, line after line\n`;
    writeFileSync(join(tree, i % 2 === 0 ? 'deep/er' : 'deep', `f${i}`), line.repeat(1 + i * 300).slice(i));
  }
  execFileSync('mkfs.erofs', [join(root, 'disk'), tree], { stdio: 'ignore' });
  return { disk: readFileSync(join(root, 'disk')), tree };
}

async function processOf(directory: string): Promise<number> {
  const mounts = JSON.parse((await dadi('mount', '--json')).stdout);
  return mounts.find((mount: { directory: string }) => mount.directory === directory).process.pid;
}

/** The compact inodes that mkfs.erofs makes have no times of their own. */
const ignored = (field: TreeField): boolean => field === 'mtimeNs';

/** How far a conversion is that the proxy reports. */
const HALF_DONE = {
  layersDone: 0,
  layersTotal: 1,
  bytesDone: 5,
  bytesTotal: 10,
  error: null,
  converted: null,
};

describe.skipIf(!requireCapability('root', 'fuse', 'loop', 'erofs', 'erofs-utils'))('dadi mount', () => {
  test.each([1, 2, 3])(
    'the kernel shows the golden tree of layers 1 to %i of an ext4 image',
    async (count) => {
      const names = ['layer1.zstd-4k.tar.obd', 'layer2.lz4-4k.tar.obd', 'layer3.lz4-4k.obd'].slice(0, count);
      const blobs = names.map((name) => golden(`ext4/${name}`).bytes());
      const { image, converted } = await serve(blobs);
      const state = JSON.parse((await dadi('mount', '--json', image, mountPoint)).stdout);
      expect(state).toMatchObject({
        directory: mountPoint,
        manifestDigest: converted,
        fsType: 'ext4',
        method: 'loop',
      });
      const expected = goldenTree(join(import.meta.dirname, `golden/ext4/tree-1-${count}.json`));
      expect(diffTrees(expected, await readTree(mountPoint))).toEqual([]);
      const stats = JSON.parse((await dadi('umount', '--json', mountPoint)).stdout);
      expect(stats.imageBytes).toBe(blobs.reduce((sum, blob) => sum + blob.length, 0));
      expect(stats.bytesFetched).toBeGreaterThan(0);
      expect(stats.bytesFetched).toBeLessThanOrEqual(stats.imageBytes);
      await expectNothingLeft();
    },
  );

  test('an EROFS image shows its tree; mounted again it needs no blob from the registry', async () => {
    const { disk, tree } = erofsDisk();
    const { image, registry } = await serve([layerOfDisk(disk)], { chunkBytes: 4096 });
    for (const fetches of [true, false]) {
      registry.requests.length = 0;
      await dadi('mount', image, mountPoint);
      expect(diffTrees(await readTree(tree), await readTree(mountPoint), ignored)).toEqual([]);
      const stats = JSON.parse((await dadi('umount', '--json', mountPoint)).stdout);
      expect(stats.chunksFetched > 0).toBe(fetches);
      await expectNothingLeft();
    }
  });

  test('an image in a layout is mounted by its converted form, named relative to the working directory', async () => {
    const { disk, tree } = erofsDisk();
    await makeOverlaybdLayout(join(root, 'layout'), [layerOfDisk(disk)]);
    await dadi('mount', 'oci:layout:original', 'mnt');
    expect(diffTrees(await readTree(tree), await readTree(mountPoint), ignored)).toEqual([]);
    expect((await dadi('mount')).stdout).toMatch(
      new RegExp(`${mountPoint} +oci:${root}/layout:original +mounted`),
    );
    expect((await dadi('umount', 'mnt')).stdout).toContain('is unmounted');
  });

  test('--proxy reads an image by its name upstream', async () => {
    const { registry } = await serve([layerOfDisk(erofsDisk().disk)], {}, `reg.example.com/${REPOSITORY}`);
    const proxy = `http://${registry.host}`;
    await dadi('mount', '--proxy', proxy, `reg.example.com/${REPOSITORY}:converted`, mountPoint);
    expect(await readdir(mountPoint)).toEqual(['deep']);
    await dadi('umount', mountPoint);
  });

  test('only what is read is fetched', async () => {
    const disk = Buffer.concat([erofsDisk().disk, randomBytes(8 * 1024 * 1024)]);
    const { image } = await serve([layerOfDisk(disk)], { chunkBytes: 65_536 });
    await dadi('mount', image, mountPoint);
    await readFile(join(mountPoint, 'deep/er/f2'));
    const stats = JSON.parse((await dadi('umount', '--json', mountPoint)).stdout);
    expect(stats.bytesFetched).toBeLessThan(stats.imageBytes / 4);
  });

  test('bytes that do not match are an I/O error for who reads them, and are right when the registry is', async () => {
    const { disk, tree } = erofsDisk();
    const { image, registry } = await serve([layerOfDisk(disk)], { chunkBytes: 4096 });
    await dadi('mount', image, mountPoint);
    registry.damage = (_digest, _offset, bytes) => void bytes.fill(0x55);
    const path = 'deep/er/f38';
    expect(await complaint(run('cat', [join(mountPoint, path)]))).toContain('Input/output error');
    registry.damage = null;
    const { stdout } = await run('cat', [join(mountPoint, path)]);
    expect(stdout).toBe(readFileSync(join(tree, path), 'utf8'));
    await dadi('umount', mountPoint);
  });

  test('a registry that goes away and comes back makes a read wait; one that stays away makes it fail in time', async () => {
    const { disk, tree } = erofsDisk();
    const { image, registry } = await serve([layerOfDisk(disk)], { chunkBytes: 4096 });
    await dadi('mount', '--read-timeout', '4', image, mountPoint);
    await registry.close();
    const path = 'deep/er/f38';
    const reading = run('cat', [join(mountPoint, path)]);
    await sleep(2000);
    await registry.resume();
    expect((await reading).stdout).toBe(readFileSync(join(tree, path), 'utf8'));
    await registry.close();
    expect(await complaint(run('cat', [join(mountPoint, 'deep/f37')]))).toContain('Input/output error');
    await dadi('umount', mountPoint);
  });

  test('a directory in use stays mounted, with an error that names it; --lazy frees it, and its users go on', async () => {
    const { disk, tree } = erofsDisk();
    const { image } = await serve([layerOfDisk(disk)], { chunkBytes: 4096 });
    await dadi('mount', image, mountPoint);
    const file = await open(join(mountPoint, 'deep/er/f38'));
    try {
      expect(await complaint(dadi('umount', mountPoint))).toMatch(`${mountPoint} is in use (EBUSY)`);
      expect(await readdir(mountPoint)).toEqual(['deep']);
      await dadi('umount', '--lazy', mountPoint);
      expect(await readdir(mountPoint)).toEqual([]);
      const expected = readFileSync(join(tree, 'deep/er/f38'));
      // Long enough for whatever would not wait for the user.
      await sleep(1000);
      expect((await dadi('mount')).stdout).toContain('detaching');
      expect((await file.readFile()).equals(expected)).toBe(true);
    } finally {
      await file.close();
    }
    await expectNothingLeft();
  });

  test.each(['erofs', 'ext4'])('what kill -9 leaves of an %s mount, umount removes', async (fsType) => {
    const blobs =
      fsType === 'erofs' ? [layerOfDisk(erofsDisk().disk)] : [golden('ext4/layer1.lz4-4k.tar.obd').bytes()];
    const { image } = await serve(blobs);
    await dadi('mount', image, mountPoint);
    process.kill(await processOf(mountPoint), 'SIGKILL');
    while (!(await dadi('mount')).stdout.includes('dead')) await sleep(20);
    await dadi('umount', mountPoint);
    await expectNothingLeft();
  });

  test('a mount whose device is cut off by somebody else takes itself down', async () => {
    const { image } = await serve([layerOfDisk(erofsDisk().disk)]);
    await dadi('mount', image, mountPoint);
    const [id] = readdirSync(runDirectory).filter((name) => !name.endsWith('.log'));
    await complaint(run('umount', ['--force', join(runDirectory, id!, 'device')]));
    await expectNothingLeft();
  });

  test('what kill -9 leaves, the next mount removes, also where it was', async () => {
    const { image } = await serve([layerOfDisk(erofsDisk().disk)]);
    const other = join(root, 'other');
    mkdirSync(other);
    for (const directory of [mountPoint, other]) {
      await dadi('mount', image, directory);
      process.kill(await processOf(directory), 'SIGKILL');
    }
    await dadi('mount', image, mountPoint);
    expect(await readdir(mountPoint)).toEqual(['deep']);
    expect(await readdir(other)).toEqual([]);
    expect(readdirSync(runDirectory).filter((name) => !name.endsWith('.log'))).toHaveLength(1);
    await dadi('umount', mountPoint);
    await expectNothingLeft();
  });

  test('what kill -9 leaves does not come between mounts that start at once; what cannot be removed keeps none from starting', async () => {
    const { image } = await serve([layerOfDisk(erofsDisk().disk)]);
    const directories = ['a', 'b', 'c'].map((name) => join(root, name));
    for (const directory of directories) {
      mkdirSync(directory);
      await dadi('mount', image, directory);
      process.kill(await processOf(directory), 'SIGKILL');
    }
    const remains = join(runDirectory, '0123456789ab/unknown');
    mkdirSync(remains, { recursive: true });
    await Promise.all(directories.map((directory) => dadi('mount', image, directory)));
    for (const directory of directories) {
      expect(await readdir(directory)).toEqual(['deep']);
      await dadi('umount', directory);
    }
    rmSync(remains, { recursive: true });
    await dadi('umount', '0123456789ab');
    await expectNothingLeft();
  });

  test('device nodes of an image open no device of this machine', async () => {
    const { image } = await serve([layerOfDisk(erofsDisk().disk)]);
    await dadi('mount', image, mountPoint);
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
    expect(mounts.find((line) => line.includes(` ${mountPoint} `))).toMatch(/ ro,[^ ]*nodev/);
    await dadi('umount', mountPoint);
  });

  test('SIGTERM unmounts', async () => {
    const { image } = await serve([layerOfDisk(erofsDisk().disk)]);
    await dadi('mount', image, mountPoint);
    process.kill(await processOf(mountPoint), 'SIGTERM');
    await expectNothingLeft();
  });

  test('a mount in the foreground says so, and unmounts on Ctrl-C', async () => {
    const { image } = await serve([layerOfDisk(erofsDisk().disk)]);
    const foreground = dadi('mount', '--foreground', image, mountPoint);
    while ((await readdir(mountPoint)).length === 0) await sleep(20);
    process.kill(await processOf(mountPoint), 'SIGINT');
    expect((await foreground).stdout).toContain(`is mounted on ${mountPoint}`);
  });

  test('the original image waits for its conversion, and is mounted in its converted form', async () => {
    const { image, original, converted, registry } = await serve([layerOfDisk(erofsDisk().disk)]);
    registry.conversions.set(original, { ...HALF_DONE, state: 'running' });
    const mounting = dadi('mount', '--json', image.replace(':converted', ':original'), mountPoint);
    while (registry.requests.filter((path) => path.startsWith('/dadi/')).length < 3) await sleep(20);
    // A proxy may be restarted meanwhile.
    await registry.close();
    await sleep(500);
    await registry.resume();
    registry.conversions.set(original, { ...HALF_DONE, state: 'done', converted: { digest: converted } });
    expect(JSON.parse((await mounting).stdout).manifestDigest).toBe(converted);
    await dadi('umount', mountPoint);
  });

  test.each([
    [
      'a conversion that failed',
      'original',
      { state: 'failed', error: 'layer 3 is encrypted' },
      'layer 3 is encrypted',
    ],
    ['a conversion that takes too long', 'original', { state: 'running' }, 'is not converted after 0 s'],
    ['an image that nobody converts', 'original', null, 'does not convert it'],
    ['a tag that is not there', 'nothing', null, 'ERR_REGISTRY_NOT_FOUND'],
  ])('%s is a clear error, and leaves nothing', async (_, tag, status, expected) => {
    const { image, original, registry } = await serve([layerOfDisk(erofsDisk().disk)]);
    if (status !== null) registry.conversions.set(original, { ...HALF_DONE, ...status });
    const mounting = dadi('mount', '--wait', '0.4', image.replace(':converted', `:${tag}`), mountPoint);
    const error = await complaint(mounting);
    expect(error).toContain(expected);
    expect(error).toContain('exit code 1');
    await expectNothingLeft();
  });

  test.each(['SIGINT', 'SIGKILL'] as const)(
    '%s while the conversion is awaited leaves nothing',
    async (signal) => {
      const { image, original, registry } = await serve([layerOfDisk(erofsDisk().disk)]);
      registry.conversions.set(original, { ...HALF_DONE, state: 'running' });
      const args = [MAIN, 'mount', '--run-dir', runDirectory, '--cache-dir', join(root, 'cache')];
      const child = spawn(process.execPath, [...args, image.replace(':converted', ':original'), mountPoint]);
      const ended = once(child, 'exit');
      while (!registry.requests.some((path) => path.startsWith('/dadi/'))) await sleep(20);
      child.kill(signal);
      expect(await ended).toEqual(signal === 'SIGINT' ? [1, null] : [null, 'SIGKILL']);
      await expectNothingLeft();
    },
  );

  test('a mount that is not ready yet can be unmounted', async () => {
    const { image, original, registry } = await serve([layerOfDisk(erofsDisk().disk)]);
    registry.conversions.set(original, { ...HALF_DONE, state: 'running' });
    const mounting = complaint(dadi('mount', image.replace(':converted', ':original'), mountPoint));
    while (!registry.requests.some((path) => path.startsWith('/dadi/'))) await sleep(20);
    await dadi('umount', mountPoint);
    expect(await mounting).toContain('interrupted before the image was mounted');
    await expectNothingLeft();
  });

  test('where losetup is missing, the error names the package to install', async () => {
    const { image } = await serve([golden('ext4/layer1.lz4-4k.tar.obd').bytes()]);
    const args = [
      MAIN,
      'mount',
      '--run-dir',
      runDirectory,
      '--cache-dir',
      join(root, 'cache'),
      image,
      mountPoint,
    ];
    const mounting = run(process.execPath, args, { env: { PATH: '/nowhere' } });
    expect(await complaint(mounting)).toContain('apt-get install mount');
    await expectNothingLeft();
  });

  test('an image of stock tools, without chunk tables, is refused with that reason', async () => {
    const { image } = await serve([golden('ext4/layer1.lz4-4k.tar.obd').bytes()], { stock: true });
    expect(await complaint(dadi('mount', image, mountPoint))).toContain('has no chunk table');
  });

  test('a second mount on the same directory, a missing directory, and one not mounted are refused', async () => {
    const { image } = await serve([layerOfDisk(erofsDisk().disk)]);
    await dadi('mount', image, mountPoint);
    expect(await complaint(dadi('mount', image, mountPoint))).toContain('has a mount of ours already');
    expect(await readdir(mountPoint)).toEqual(['deep']);
    await dadi('umount', mountPoint);
    expect(await complaint(dadi('mount', image, join(root, 'missing')))).toContain('there is no directory');
    expect(await complaint(dadi('umount', mountPoint))).toContain('nothing of dadi');
    expect(await complaint(dadi('mount', image))).toContain('exit code 2');
  });
});

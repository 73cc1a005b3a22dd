import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type AttachOptions, attachDevice, resumeAttachment } from '../src/client/attach/attachment.ts';
import type { BlockDevice } from '../src/client/nbd/nbd-connection.ts';
import { BufferSource } from '../src/format/buffer-source.ts';
import { requireCapability } from './support/capabilities.ts';
import { run } from './support/processes.ts';

const FILES = 24;
const FILE_BYTES = 300_000;

let root: string;
let tree: string;
let device: BlockDevice;

/** A file system of files with nothing in common, as an image of a disk. */
function makeDisk(fsType: 'erofs' | 'ext4'): Buffer {
  const disk = join(root, 'disk');
  if (fsType === 'erofs') execFileSync('mkfs.erofs', [disk, tree], { stdio: 'ignore' });
  else execFileSync('mkfs.ext4', ['-q', '-d', tree, disk, '16M'], { stdio: 'ignore' });
  return readFileSync(disk);
}

beforeEach(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'dadi-attach-')));
  tree = join(root, 'tree');
  mkdirSync(tree);
  for (let i = 0; i < FILES; i++) writeFileSync(join(tree, `f${i}`), randomBytes(FILE_BYTES));
});

afterEach(() => {
  const left = remains();
  rmSync(root, { recursive: true });
  expect(left).toEqual({ mounts: [], loops: [], processes: [] });
});

/** What of the test is still on this machine. */
function remains() {
  const lines = (text: string) => text.split('\n').filter((line) => line.includes(root));
  return {
    mounts: lines(readFileSync('/proc/self/mountinfo', 'utf8')),
    loops: lines(execFileSync('losetup', ['-l', '-n', '-O', 'BACK-FILE']).toString()),
    processes: readdirSync('/proc').filter(
      (pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid && commandLine(pid).includes(root),
    ),
  };
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}

function optionsOf(name: string, changes: Partial<AttachOptions> = {}): AttachOptions {
  const workDirectory = join(root, name);
  const target = join(root, `${name}.mnt`);
  mkdirSync(workDirectory, { recursive: true });
  mkdirSync(target, { recursive: true });
  return { device, fsType: 'erofs', workDirectory, target, ...changes };
}

/**
 * Rejects unless every file reads as it should; many are read at once. By other processes: who serves a mount and waits
 * for it has no threads left to serve it.
 */
async function expectTree(target: string): Promise<void> {
  const script = 'ls "$1" | xargs -P 8 -I NAME cmp "$1/NAME" "$2/NAME"';
  await run('sh', ['-c', script, 'sh', tree, target]);
}

const canRun = requireCapability('root', 'fuse', 'loop', 'erofs', 'erofs-utils');

describe.skipIf(!canRun)('an attached device', () => {
  test.each(['erofs', 'ext4'] as const)('shows an %s image to many readers at once', async (fsType) => {
    device = new BufferSource(makeDisk(fsType));
    const options = optionsOf('a', { fsType });
    const attachment = await attachDevice(options);
    await expectTree(options.target);
    await attachment.detach({ lazy: false });
    expect(readdirSync(options.workDirectory)).toEqual([]);
  });

  test('that is released is taken up again, with the reads that waited meanwhile', async () => {
    device = new BufferSource(makeDisk('erofs'));
    const options = optionsOf('a');
    await (await attachDevice(options)).release();
    const reading = expectTree(options.target);
    const resumed = await resumeAttachment(options);
    await reading;
    await resumed?.detach({ lazy: false });
    expect(await resumeAttachment(options)).toBe(null);
  });
});

import { type ChildProcess, execFileSync, fork, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
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
import { buffer, text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { attachPaths } from '../src/client/attach/attach-paths.ts';
import {
  type AttachOptions,
  attachDevice,
  detachRemains,
  resumeAttachment,
} from '../src/client/attach/attachment.ts';
import type { BlockDevice } from '../src/client/nbd/nbd-connection.ts';
import { BufferSource } from '../src/format/buffer-source.ts';
import type { AttachServerMessage } from './support/attach-server.ts';
import { requireCapability } from './support/capabilities.ts';
import { run } from './support/processes.ts';

const SERVER = join(import.meta.dirname, 'support/attach-server.ts');
const PATIENT = { timeout: 60_000, interval: 20 };
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

afterEach(async () => {
  const left = remains();
  // What a test that failed has left.
  for (const name of readdirSync(root)) {
    const isWork = name !== 'tree' && name !== 'disk' && !name.endsWith('.mnt');
    if (isWork) await detachRemains(join(root, name));
  }
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

/** A process that serves the test's disk until it is killed. */
class Server {
  readonly process: ChildProcess;
  readonly ended: Promise<unknown>;
  readonly #messages: AttachServerMessage[] = [];

  constructor(
    fsType: string,
    delayMs: number,
    places: readonly AttachOptions[],
    how: 'in-turn' | 'at-once' = 'in-turn',
  ) {
    const paths = places.flatMap(({ workDirectory, target }) => [workDirectory, target]);
    this.process = fork(SERVER, [fsType, join(root, 'disk'), String(delayMs), how, ...paths]);
    this.process.on('message', (message: AttachServerMessage) => this.#messages.push(message));
    this.ended = once(this.process, 'exit');
  }

  /** The first message that is of that kind. */
  async says<K extends AttachServerMessage['type']>(
    type: K,
    isIt: (message: Extract<AttachServerMessage, { readonly type: K }>) => boolean = () => true,
  ): Promise<Extract<AttachServerMessage, { readonly type: K }>> {
    return vi.waitFor(() => {
      for (const message of this.#messages) if (isOf(message, type) && isIt(message)) return message;
      throw new Error(`the server has not said "${type}"`);
    }, PATIENT);
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL');
    await this.ended;
  }
}

function isOf<K extends AttachServerMessage['type']>(
  message: AttachServerMessage,
  type: K,
): message is Extract<AttachServerMessage, { readonly type: K }> {
  return message.type === type;
}

/** A device whose reads can be made to fail, or to wait. */
class FickleSource extends BufferSource {
  mood: 'well' | 'failing' | 'waiting' = 'well';
  waiting = 0;
  #resume = Promise.withResolvers<void>();

  override async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    if (this.mood === 'failing') throw new Error('no registry answers');
    if (this.mood === 'waiting') {
      this.waiting++;
      const gone = Promise.withResolvers<never>();
      signal?.addEventListener('abort', () => gone.reject(signal.reason), { once: true });
      await Promise.race([this.#resume.promise, gone.promise]).finally(() => this.waiting--);
    }
    await super.read(offset, target);
  }

  resume(): void {
    this.mood = 'well';
    this.#resume.resolve();
  }
}

async function holderPid({ workDirectory }: AttachOptions): Promise<number> {
  const { holderPid } = await attachPaths(workDirectory);
  return Number(readFileSync(holderPid, 'utf8'));
}

const canRun = requireCapability('root', 'fuse', 'loop', 'erofs', 'erofs-utils', 'python');

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

  test.each(['erofs', 'ext4'] as const)(
    'of %s outlives kill -9 of its server: the kernel serves what it has, the rest waits for the next one',
    async (fsType) => {
      device = new BufferSource(makeDisk(fsType));
      const options = optionsOf('a', { fsType });
      const server = new Server(fsType, 50, [options]);
      await server.says('attached');
      const read = (name: string) => run('cmp', [join(tree, name), join(options.target, name)]);
      await read('f0');
      const reading = expectTree(options.target);
      // With f0 alone it was asked for less.
      await server.says('reading', ({ reads }) => reads > 16);
      await server.kill();
      await read('f0');
      const resumed = await resumeAttachment(options);
      expect(resumed?.method).toBe(fsType === 'erofs' ? 'file' : 'loop');
      await reading;
      await expectTree(options.target);
      await resumed?.detach({ lazy: false });
      expect(readdirSync(options.workDirectory)).toEqual([]);
    },
  );

  test.each([
    ['erofs', 'its server'],
    ['ext4', 'its server'],
    ['erofs', 'all its processes'],
    ['ext4', 'all its processes'],
  ] as const)(
    'of %s leaves nothing after kill -9 of %s; who waits in a read gets an error',
    async (fsType, killed) => {
      device = new BufferSource(makeDisk(fsType));
      const options = optionsOf('a', { fsType });
      const server = new Server(fsType, 600_000, [options]);
      await server.says('attached');
      const reading = run('cat', [join(options.target, 'f1')]).catch((error: Error) => error.message);
      await server.says('reading');
      await server.kill();
      if (killed === 'all its processes') {
        const holder = await holderPid(options);
        process.kill(holder, 'SIGKILL');
        await vi.waitFor(() => expect(commandLine(String(holder))).toBe(''), PATIENT);
        expect(await resumeAttachment(options)).toBe(null);
      }
      await detachRemains(options.workDirectory);
      expect(await reading).toContain('Input/output error');
      expect(readdirSync(options.workDirectory)).toEqual([]);
      expect(readdirSync(options.target)).toEqual([]);
    },
  );

  test('is mounted with many others at once, though reads of it need threads that mounts would take', async () => {
    makeDisk('erofs');
    const places = Array.from({ length: 6 }, (_, i) => optionsOf(`m${i}`));
    const server = new Server('erofs', 0, places, 'at-once');
    await server.says('attached');
    await server.kill();
    await Promise.all(places.map(({ workDirectory }) => detachRemains(workDirectory)));
  });

  test.each(['erofs', 'ext4'] as const)(
    'of %s that is being mounted keeps no process when its server is killed, and nothing stays',
    async (fsType) => {
      makeDisk(fsType);
      const options = optionsOf('a', { fsType });
      const server = new Server(fsType, 600_000, [options], 'at-once');
      await server.says('reading');
      await server.kill();
      expect(await resumeAttachment({ ...options, device: new BufferSource(Buffer.alloc(0)) })).toBe(null);
      await detachRemains(options.workDirectory);
      expect(readdirSync(options.workDirectory)).toEqual([]);
      expect(readdirSync(options.target)).toEqual([]);
    },
  );

  test('whose reads fail gives its readers EIO, and the right bytes once they do not', async () => {
    const fickle = new FickleSource(makeDisk('erofs'));
    device = fickle;
    const errors: unknown[] = [];
    const options = optionsOf('a', { onReadError: (error) => errors.push(error) });
    const attachment = await attachDevice(options);
    fickle.mood = 'failing';
    for (const name of ['f1', 'f23']) {
      await expect(run('cat', [join(options.target, name)])).rejects.toThrow('Input/output error');
    }
    expect(errors).toContainEqual(new Error('no registry answers'));
    fickle.mood = 'well';
    await expectTree(options.target);
    await attachment.detach({ lazy: false });
  });

  test('lets a reader that waits be killed, and one go on that only gets a signal', async () => {
    const fickle = new FickleSource(makeDisk('erofs'));
    device = fickle;
    const options = optionsOf('a');
    const attachment = await attachDevice(options);
    fickle.mood = 'waiting';
    const script = [
      'import os, signal, sys',
      'signal.signal(signal.SIGUSR1, lambda *_: None)',
      'print(os.stat(sys.argv[1]).st_size)',
    ].join('\n');
    // Its inode stands far from the root's: a block of metadata is to be read, for which the kernel waits in place.
    const stat = () => spawn('python3', ['-c', script, join(options.target, 'f9')]);
    const killed = stat();
    await vi.waitFor(() => expect(fickle.waiting).toBe(1), PATIENT);
    killed.kill('SIGKILL');
    expect(await once(killed, 'exit')).toEqual([null, 'SIGKILL']);
    expect(fickle.waiting).toBe(0);
    const signalled = stat();
    const size = text(signalled.stdout);
    await vi.waitFor(() => expect(fickle.waiting).toBe(1), PATIENT);
    signalled.kill('SIGUSR1');
    // It waits as for a disk from now on.
    await vi.waitFor(() => expect(stateOf(signalled.pid!)).toBe('D'), PATIENT);
    await run('true', []);
    fickle.resume();
    expect((await size).trim()).toBe(String(FILE_BYTES));
    await attachment.detach({ lazy: false });
  });

  test('gets another holder when its own is killed, and is still taken up after that', async () => {
    device = new BufferSource(makeDisk('erofs'));
    const options = optionsOf('a');
    const attachment = await attachDevice(options);
    const first = await holderPid(options);
    process.kill(first, 'SIGKILL');
    await vi.waitFor(async () => expect(await holderPid(options)).not.toBe(first), PATIENT);
    await attachment.release();
    const resumed = await resumeAttachment(options);
    await expectTree(options.target);
    await resumed?.detach({ lazy: false });
  });

  test('in use stays mounted; lazily freed it serves who is in it, and then ends', async () => {
    device = new BufferSource(makeDisk('erofs'));
    const options = optionsOf('a');
    const attachment = await attachDevice(options);
    const reader = spawn('sh', ['-c', 'read go; cat f7'], { cwd: options.target });
    await vi.waitFor(() => expect(commandLine(String(reader.pid))).toContain('cat f7'), PATIENT);
    await expect(attachment.detach({ lazy: false })).rejects.toMatchObject({ code: 'ERR_MOUNT_BUSY' });
    await attachment.detach({ lazy: true });
    expect(readdirSync(options.target)).toEqual([]);
    reader.stdin.end('go\n');
    expect((await buffer(reader.stdout)).equals(readFileSync(join(tree, 'f7')))).toBe(true);
    await attachment.ended;
    expect(readdirSync(options.workDirectory)).toEqual([]);
  });

  test('that could not be taken down is taken down by the next attempt', async () => {
    device = new BufferSource(makeDisk('erofs'));
    const options = optionsOf('a');
    const attachment = await attachDevice(options);
    const { holderPid } = await attachPaths(options.workDirectory);
    rmSync(holderPid);
    mkdirSync(holderPid);
    await expect(attachment.detach({ lazy: false })).rejects.toMatchObject({ code: 'ERR_DETACH_FAILED' });
    rmSync(holderPid, { recursive: true });
    await attachment.detach({ lazy: false });
    expect(readdirSync(options.workDirectory)).toEqual([]);
  });

  test('costs no thread, however many there are', async () => {
    device = new BufferSource(makeDisk('erofs'));
    const places = Array.from({ length: 20 }, (_, i) => optionsOf(`m${i}`));
    const server = new Server('erofs', 0, places);
    const { threads } = await server.says('attached');
    await Promise.all(places.map(({ target }) => run('cmp', [join(tree, 'f5'), join(target, 'f5')])));
    expect(threads.at(-1)).toBe(threads.at(1));
    await server.kill();
    await Promise.all(places.map(({ workDirectory }) => detachRemains(workDirectory)));
  });
});

/** R, S, D … (proc_pid_stat(5)) */
function stateOf(pid: number): string | undefined {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return stat.slice(stat.lastIndexOf(')') + 2)[0];
}

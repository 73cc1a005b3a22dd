import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { BlockDevice } from './erofs-device.ts';
import { type SeenInode, snapshotOf, type TreeSnapshot } from './tree-snapshot.ts';

/**
 * For each directory that it reads the name of, a line of JSON: what the kernel shows below it, each name looked up once
 * more by itself, a line each, and an empty line.
 */
const LISTER = `
import hashlib, json, os, stat, sys
TYPES = {stat.S_IFREG: 'file', stat.S_IFDIR: 'directory', stat.S_IFLNK: 'symlink', stat.S_IFCHR: 'character',
         stat.S_IFBLK: 'block', stat.S_IFIFO: 'fifo', stat.S_IFSOCK: 'socket'}
def text(data): return data.decode('latin1')
def show(top, path):
    full = os.path.join(top, path) if path else top
    s = os.lstat(full)
    kind = TYPES[stat.S_IFMT(s.st_mode)]
    content = ''
    if kind == 'file': content = hashlib.sha256(open(full, 'rb').read()).hexdigest()
    if kind == 'symlink': content = text(os.readlink(full))
    if kind in ('character', 'block'): content = '%d:%d' % (os.major(s.st_rdev), os.minor(s.st_rdev))
    xattrs = sorted([name, os.getxattr(full, name, follow_symlinks=False).hex()]
                    for name in os.listxattr(full, follow_symlinks=False))
    seconds, nanoseconds = divmod(s.st_mtime_ns, 10 ** 9)
    print(json.dumps([text(path), s.st_ino, {'type': kind, 'mode': stat.S_IMODE(s.st_mode), 'uid': s.st_uid,
        'gid': s.st_gid, 'mtime': [seconds, nanoseconds], 'nlink': s.st_nlink, 'content': content, 'xattrs': xattrs}]))
    if kind == 'directory':
        for name in os.listdir(full): show(top, os.path.join(path, name))
sys.setrecursionlimit(10000)
for line in sys.stdin:
    show(os.fsencode(json.loads(line)), b'')
    print(flush=True)
`;

/** Lists one directory after the other: to start Python for each of hundreds takes longer than to list them. */
class Lister {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;
  readonly #ended: Promise<unknown>;

  constructor() {
    const child = spawn('python3', ['-c', LISTER], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#process = child;
    this.#ended = once(child, 'close');
    this.#reader = createInterface({ input: child.stdout });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  async list(directory: string): Promise<string[]> {
    this.#process.stdin?.write(`${JSON.stringify(directory)}\n`);
    const listed: string[] = [];
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error(`the lister ended in the middle of ${directory}`);
      if (value === '') return listed;
      listed.push(value);
    }
  }

  async stop(): Promise<void> {
    this.#process.stdin?.end();
    await this.#ended;
    this.#reader.close();
  }
}

/** A directory for images and mounts; `remove` it at the end. */
export class MountBench {
  #lister: Lister | null = null;
  readonly #scratch = mkdtempSync(path.join(tmpdir(), 'dadi-erofs-'));

  file(name: string): string {
    return path.join(this.#scratch, name);
  }

  /** The device as a file that fsck.erofs found no fault in. */
  checkedImage(device: BlockDevice): string {
    const image = this.file('device.erofs');
    rmSync(image, { force: true });
    const fd = openSync(image, 'w');
    try {
      device.writeTo(fd);
    } finally {
      closeSync(fd);
    }
    // It recurses into directories, and at a depth of 900 the usual stack is used up.
    execFileSync('sh', ['-c', 'ulimit -s unlimited; exec fsck.erofs "$0"', image], { stdio: 'pipe' });
    return image;
  }

  /** Calls `use` with the directory where the kernel shows an image. */
  async mounted<Result>(
    image: string,
    use: (directory: string) => Result | Promise<Result>,
  ): Promise<Result> {
    const directory = this.file('mount');
    mkdirSync(directory, { recursive: true });
    execFileSync('mount', ['-t', 'erofs', '-o', 'loop,ro', image, directory], { stdio: 'pipe' });
    try {
      return await use(directory);
    } finally {
      execFileSync('umount', [directory], { stdio: 'pipe' });
    }
  }

  /** What the kernel sees. */
  async snapshotByKernel(image: string): Promise<TreeSnapshot> {
    this.#lister ??= new Lister();
    const lister = this.#lister;
    const lines = await this.mounted(image, (directory) => lister.list(directory));
    return snapshotOf(lines.map((line) => JSON.parse(line) as [string, number, Omit<SeenInode, 'sameAs'>]));
  }

  async remove(): Promise<void> {
    await this.#lister?.stop();
    rmSync(this.#scratch, { recursive: true, force: true });
  }
}

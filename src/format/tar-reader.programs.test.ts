import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { requireCapability } from '../../test/support/capabilities.ts';
import { run } from '../../test/support/processes.ts';
import { collectTar } from '../../test/support/tar-events.ts';
import { toBytes } from './byte-string.ts';

const LONG_NAME = 'n'.repeat(200);
const LONG_TARGET = 't'.repeat(300);
const NOT_UTF8 = 'caf\xe9';
const BINARY_XATTR = Buffer.from([0, 1, 0xff, 0x0a, 0x3d, 0x80]);

let scratch: string;
let tree: string;
beforeAll(async () => {
  scratch = mkdtempSync(path.join(tmpdir(), 'dadi-tar-'));
  tree = path.join(scratch, 'tree');
  mkdirSync(path.join(tree, 'plain/sticky'), { recursive: true });
  for (const size of [0, 1, 511, 512, 513, 100_000]) {
    writeFileSync(path.join(tree, `plain/file-${size}`), randomBytes(size));
  }
  chmodSync(path.join(tree, 'plain/file-1'), 0o4755);
  chmodSync(path.join(tree, 'plain/sticky'), 0o1777);
  symlinkSync('../plain/file-1', path.join(tree, 'plain/link'));
  linkSync(path.join(tree, 'plain/file-511'), path.join(tree, 'plain/second-name'));
  writeFileSync(Buffer.concat([Buffer.from(`${tree}/plain/`), toBytes(NOT_UTF8)]), 'x');

  mkdirSync(path.join(tree, 'special'));
  await run('mkfifo', [path.join(tree, 'special/fifo')]);

  mkdirSync(path.join(tree, 'long', LONG_NAME), { recursive: true });
  writeFileSync(path.join(tree, 'long', LONG_NAME, LONG_NAME), 'deep');
  symlinkSync(LONG_TARGET, path.join(tree, 'long', LONG_NAME, 'link'));
  linkSync(path.join(tree, 'long', LONG_NAME, LONG_NAME), path.join(tree, 'long/second-name'));

  mkdirSync(path.join(tree, 'times'));
  for (const time of ['1700000000.123456789', '0', '-1.5', '-86400', '9000000000']) {
    await run('touch', ['-d', `@${time}`, path.join(tree, 'times', `at${time}`)]);
  }

  mkdirSync(path.join(tree, 'xattrs'));
  const withXattrs = path.join(tree, 'xattrs/file');
  writeFileSync(withXattrs, 'x');
  await run('setfattr', ['-n', 'user.binary', '-v', `0x${BINARY_XATTR.toString('hex')}`, withXattrs]);
  await run('setfattr', ['-n', 'user.empty', withXattrs]);

  mkdirSync(path.join(tree, 'sparse'));
  writeSparse(path.join(tree, 'sparse/one'), 3_000_000, [1_000_000]);
  writeSparse(
    path.join(tree, 'sparse/many'),
    8_000_001,
    Array.from({ length: 100 }, (_, i) => i * 73_728),
  );
  writeSparse(path.join(tree, 'sparse/hole'), 1_000_000, []);
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function writeSparse(file: string, size: number, offsets: readonly number[]): void {
  const fd = openSync(file, 'w');
  for (const offset of offsets) writeSync(fd, randomBytes(4096), 0, 4096, offset);
  ftruncateSync(fd, size);
  closeSync(fd);
}

async function makeTar(args: readonly string[], folder: string): Promise<Buffer> {
  const file = path.join(scratch, 'made.tar');
  await run('tar', ['--create', '--file', file, ...args, '-C', tree, folder]);
  return readFileSync(file);
}

/** What the tree on disk looks like through lstat, in the words of the reader. */
function onDisk(name: string) {
  const file = Buffer.concat([Buffer.from(`${tree}/`), toBytes(name)]);
  const stat = lstatSync(file, { bigint: true });
  const nanoseconds = ((stat.mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  return {
    mode: Number(stat.mode & 0o7777n),
    mtimeSeconds: Number((stat.mtimeNs - nanoseconds) / 1_000_000_000n),
    mtimeNanoseconds: Number(nanoseconds),
    digest: stat.isFile() ? digest(readFileSync(file)) : null,
    size: stat.isFile() ? Number(stat.size) : 0,
  };
}

function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Reads an archive and checks every member against the tree; returns path → type. */
function expectLikeTree(archive: Buffer, { nanoseconds }: { nanoseconds: boolean }): Map<string, string> {
  const types = new Map<string, string>();
  for (const { entry, content } of collectTar(archive)) {
    const disk = onDisk(entry.path);
    types.set(entry.path, entry.type);
    expect({ path: entry.path, mode: entry.mode, mtimeSeconds: entry.mtimeSeconds }).toEqual({
      path: entry.path,
      mode: disk.mode,
      mtimeSeconds: disk.mtimeSeconds,
    });
    if (nanoseconds) expect(entry.mtimeNanoseconds).toBe(disk.mtimeNanoseconds);
    if (entry.type !== 'file') continue;
    expect({ path: entry.path, size: entry.size, digest: digest(content) }).toEqual({
      path: entry.path,
      size: disk.size,
      digest: disk.digest,
    });
  }
  return types;
}

describe('TarReader with GNU tar', () => {
  it.each(['v7', 'ustar', 'gnu', 'oldgnu', 'pax'])(
    'reads files, links, modes and bytes of names (%s)',
    async (format) => {
      const types = expectLikeTree(await makeTar([`--format=${format}`, '--sort=name'], 'plain'), {
        nanoseconds: format === 'pax',
      });
      expect(Object.fromEntries(types)).toEqual({
        'plain/': 'directory',
        [`plain/${NOT_UTF8}`]: 'file',
        'plain/file-0': 'file',
        'plain/file-1': 'file',
        'plain/file-100000': 'file',
        'plain/file-511': 'file',
        'plain/file-512': 'file',
        'plain/file-513': 'file',
        'plain/link': 'symlink',
        'plain/second-name': 'hardlink',
        'plain/sticky/': 'directory',
      });
    },
  );

  it.each(['ustar', 'gnu', 'pax'])('reads fifos and devices (%s)', async (format) => {
    expect(collectTar(await makeTar([`--format=${format}`], 'special')).at(-1)!.entry).toMatchObject({
      path: 'special/fifo',
      type: 'fifo',
    });
    const [device] = collectTar(
      await makeTar([`--format=${format}`, '-C', '/dev', 'null', '-C', tree], 'special'),
    );
    expect(device!.entry).toMatchObject({ type: 'character', deviceMajor: 1, deviceMinor: 3 });
  });

  it.each(['gnu', 'oldgnu', 'pax'])('reads long names and link targets (%s)', async (format) => {
    const archive = await makeTar([`--format=${format}`, '--sort=name'], 'long');
    const types = expectLikeTree(archive, { nanoseconds: format === 'pax' });
    expect([...types.keys()]).toContain(`long/${LONG_NAME}/${LONG_NAME}`);
    const links = collectTar(archive).map(({ entry }) => entry.linkTarget);
    expect(links).toContain(LONG_TARGET);
    expect(links).toContain(`long/${LONG_NAME}/${LONG_NAME}`);
  });

  it.each(['gnu', 'pax'])('reads times before 1970 and after 2242 (%s)', async (format) => {
    expect(
      expectLikeTree(await makeTar([`--format=${format}`], 'times'), { nanoseconds: format === 'pax' }).size,
    ).toBe(6);
  });

  it.each(['gnu', 'pax'])('reads user and group IDs of more than 21 bits (%s)', async (format) => {
    const archive = await makeTar(
      [`--format=${format}`, '--owner=:3000000', '--group=:4294967294'],
      'special',
    );
    for (const { entry } of collectTar(archive)) {
      expect(entry).toMatchObject({ uid: 3_000_000, gid: 4_294_967_294 });
    }
  });

  it('reads binary and empty xattrs', async () => {
    const entries = collectTar(await makeTar(['--format=pax', '--xattrs', '--xattrs-include=*'], 'xattrs'));
    expect(entries.at(-1)!.entry.xattrs).toEqual(
      new Map([
        ['user.binary', BINARY_XATTR],
        ['user.empty', Buffer.alloc(0)],
      ]),
    );
  });

  it.each([
    ['pax', '0.0'],
    ['pax', '0.1'],
    ['pax', '1.0'],
    ['gnu', '0.0'],
    ['oldgnu', '0.0'],
  ])('reads sparse files (%s, %s)', async (format, version) => {
    const archive = await makeTar(
      [`--format=${format}`, '--sparse', `--sparse-version=${version}`],
      'sparse',
    );
    expect(archive.length).toBeLessThan(1_000_000);
    expect([...expectLikeTree(archive, { nanoseconds: format === 'pax' }).keys()].sort()).toEqual([
      'sparse/',
      'sparse/hole',
      'sparse/many',
      'sparse/one',
    ]);
  });

  it('passes over global headers', async () => {
    const archive = await makeTar(['--format=pax', '--pax-option=gid=7777'], 'special');
    const entries = collectTar(archive);
    expect(entries.map(({ entry }) => entry.path)).toEqual(['special/', 'special/fifo']);
    for (const { entry } of entries) expect(entry.gid).not.toBe(7777);
  });
});

describe('TarReader with other writers', () => {
  it('reads what tar-stream packs', async () => {
    const packer = pack();
    const long = `${'d/'.repeat(100)}ü`;
    packer.entry({ name: long, uid: 5, mtime: new Date(1_000_000) }, 'long');
    packer.entry({ name: 'x', pax: { 'SCHILY.xattr.user.a': 'b' } }, 'x');
    packer.entry({ name: 'dev', type: 'block-device', devmajor: 8, devminor: 1 });
    packer.entry({ name: 'link', type: 'link', linkname: long });
    packer.finalize();
    const entries = collectTar(await buffer(packer));
    const bytes = Buffer.from(long).toString('latin1');
    expect(entries.map(({ entry }) => [entry.type, entry.path, entry.linkTarget])).toEqual([
      ['file', bytes, ''],
      ['file', 'x', ''],
      ['block', 'dev', ''],
      ['hardlink', 'link', bytes],
    ]);
    expect(entries[0]!.entry).toMatchObject({ uid: 5, mtimeSeconds: 1000 });
    expect(entries[0]!.content.toString()).toBe('long');
    expect(entries[1]!.entry.xattrs).toEqual(new Map([['user.a', Buffer.from('b')]]));
  });

  it.skipIf(!requireCapability('python')).each(['USTAR', 'GNU', 'PAX'])(
    "reads what Python's tarfile writes (%s)",
    async (format) => {
      const file = path.join(scratch, 'python.tar');
      const script = `import sys, tarfile
t = tarfile.open(sys.argv[1], "w", format=tarfile.${format}_FORMAT)
t.add(sys.argv[2], "plain")`;
      await run('python3', ['-c', script, file, path.join(tree, 'plain')]);
      const types = expectLikeTree(readFileSync(file), { nanoseconds: false });
      expect(types.size).toBe(11);
      expect(types.get('plain/second-name')).toBe('hardlink');
    },
  );
});

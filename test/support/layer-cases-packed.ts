/** Archives as real programs write them, in all their formats. */
import {
  chmodSync,
  chownSync,
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { toBytes } from '../../src/format/byte-string.ts';
import { FILE_CAPABILITY, type LayerCase } from './layer-cases.ts';
import { run } from './processes.ts';
import { writeXattr } from './xattrs.ts';

/** A tree for programs to pack, with what all their formats can say (`plain`) and with more. */
export async function makeTree(root: string): Promise<void> {
  const at = (path: string) => join(root, path);
  mkdirSync(at('plain/sticky'), { recursive: true });
  for (const size of [0, 1, 511, 512, 513, 10_000]) writeFileSync(at(`plain/file-${size}`), 'x'.repeat(size));
  writeFileSync(Buffer.concat([Buffer.from(at('plain/')), toBytes('caf\xe9')]), 'not UTF-8');
  chmodSync(at('plain/file-1'), 0o4755);
  chmodSync(at('plain/sticky'), 0o1777);
  symlinkSync('file-1', at('plain/link'));
  linkSync(at('plain/file-511'), at('plain/second-name'));

  const long = 'n'.repeat(200);
  mkdirSync(at(`more/${long}`), { recursive: true });
  writeFileSync(at(`more/${long}/${long}`), 'deep');
  symlinkSync('t'.repeat(300), at('more/long-link'));
  linkSync(at(`more/${long}/${long}`), at('more/second-name'));
  await run('mkfifo', [at('more/fifo')]);
  await run('mknod', [at('more/disk'), 'b', '259', '7000']);
  writeFileSync(at('more/owned'), 'x');
  chownSync(at('more/owned'), 3_000_000, 2_500_000_000);
  writeSparse(at('more/sparse'), 3_000_000, [0, 1_000_000, 2_000_000]);
  writeSparse(at('more/holes-at-both-ends'), 1_000_000, [500_000]);
  writeSparse(at('more/only-a-hole'), 700_000, []);

  mkdirSync(at('pax'));
  for (const time of [-1.5, 1_700_000_000.25, 9_000_000_000.5]) {
    writeFileSync(at(`pax/at${time}`), '');
    utimesSync(at(`pax/at${time}`), 0, time);
  }
  writeFileSync(at('pax/xattrs'), 'x', { mode: 0o644 });
  writeXattr(at('pax/xattrs'), 'user.binary', Buffer.from([0, 1, 0xff, 0x0a, 0x3d, 0x80]));
  writeXattr(at('pax/xattrs'), 'user.large', Buffer.alloc(20_000, 'large'));
  writeXattr(at('pax/xattrs'), 'security.capability', FILE_CAPABILITY);
}

function writeSparse(path: string, size: number, offsets: readonly number[]): void {
  const fd = openSync(path, 'w');
  for (const offset of offsets) writeSync(fd, Buffer.alloc(4096, 'data'), 0, 4096, offset);
  closeSync(fd);
  truncateSync(path, size);
}

const packed = (name: string, command: string, ...args: string[]): LayerCase => ({
  name,
  layers: async (scratch) => {
    const path = join(scratch, 'packed.tar');
    await run(
      command,
      args.map((arg) => arg.replace('@TAR', path)),
      { cwd: join(scratch, 'tree') },
    );
    return [readFileSync(path)];
  },
});
const gnuTar = (format: string, ...args: string[]) =>
  packed(
    `GNU tar, ${[`--format=${format}`, ...args].join(' ')}`,
    'tar',
    '-cf',
    '@TAR',
    `--format=${format}`,
    ...args,
  );
const bsdTar = (format: string, ...args: string[]) =>
  packed(
    `bsdtar, ${[`--format=${format}`, ...args].join(' ')}`,
    'bsdtar',
    '-cf',
    '@TAR',
    '--format',
    format,
    ...args,
  );
const python = (format: string, ...folders: string[]) =>
  packed(
    `Python's tarfile, ${[format, ...folders].join(' ')}`,
    'python3',
    '-c',
    `import sys, tarfile
t = tarfile.open(sys.argv[1], "w", format=tarfile.${format}_FORMAT)
for folder in sys.argv[2:]: t.add(folder)
t.close()`,
    '@TAR',
    ...folders,
  );

const NO_OLD_SPARSE: LayerCase['dissent'] = {
  umoci: {
    refuses: "unknown typeflag '\\x53'",
    because: 'GNU tar writes them when it is told nothing but --sparse',
  },
  native: { refuses: 'unhandled tar header type 83', because: 'the same' },
};

export const PACKED_CASES: readonly LayerCase[] = [
  gnuTar('v7', 'plain'),
  gnuTar('ustar', 'plain'),
  gnuTar('oldgnu', 'plain', 'more'),
  gnuTar('gnu', 'plain', 'more'),
  { ...gnuTar('oldgnu', '--sparse', 'more'), also: 'tar', dissent: NO_OLD_SPARSE },
  { ...gnuTar('gnu', '--sparse', 'more'), also: 'tar', dissent: NO_OLD_SPARSE },
  gnuTar('pax', '--xattrs', '--xattrs-include=*', 'plain', 'more', 'pax'),
  gnuTar('pax', '--sparse', '--sparse-version=0.0', 'more'),
  gnuTar('pax', '--sparse', '--sparse-version=0.1', 'more'),
  gnuTar('pax', '--sparse', '--sparse-version=1.0', 'more'),
  bsdTar('v7tar', 'plain'),
  bsdTar('ustar', 'plain'),
  bsdTar('gnutar', 'plain', 'more'),
  bsdTar('pax', '--xattrs', '--acls', 'plain', 'more', 'pax'),
  python('USTAR', 'plain'),
  python('GNU', 'plain', 'more'),
  python('PAX', 'plain', 'more', 'pax'),
];

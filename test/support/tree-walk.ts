import { createHash } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
} from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { type ByteString, toBytes } from '../../src/format/byte-string.ts';
import type { TreeEntry, TreeEntryType } from './tree.ts';
import { readXattrs } from './xattrs.ts';

const READ_BYTES = 1024 * 1024;
const FILE_TYPE_MASK = 0o170000n;
const TYPES: ReadonlyMap<bigint, TreeEntryType> = new Map([
  [0o100000n, 'file'],
  [0o040000n, 'directory'],
  [0o120000n, 'symlink'],
  [0o020000n, 'character'],
  [0o060000n, 'block'],
  [0o010000n, 'fifo'],
  [0o140000n, 'socket'],
]);

/**
 * Reads a tree with synchronous calls, for a thread of its own: they are several times as fast, and the thread that
 * perhaps serves this very file system is never waiting for itself.
 */
function walk(root: Buffer): TreeEntry[] {
  const entries: TreeEntry[] = [];
  const chunk = Buffer.allocUnsafe(READ_BYTES);
  const top = lstatSync(root, { bigint: true });
  if (!top.isDirectory()) throw new Error(`${root.toString()} is not a directory`);
  const visit = (path: ByteString): void => {
    const file = path === '' ? root : Buffer.concat([root, toBytes(`/${path}`)]);
    const stat = lstatSync(file, { bigint: true });
    entries.push(describe(path, file, stat, chunk));
    // What is mounted on a directory is not of this tree.
    if (!stat.isDirectory() || stat.dev !== top.dev) return;
    for (const name of readdirSync(file, 'buffer')) {
      const child = name.toString('latin1');
      visit(path === '' ? child : `${path}/${child}`);
    }
  };
  visit('');
  entries.sort((a, b) => (a.path < b.path ? -1 : 1));
  return nameLinkGroups(entries);
}

function describe(path: ByteString, file: Buffer, stat: BigIntStats, chunk: Buffer): TreeEntry {
  const type = TYPES.get(stat.mode & FILE_TYPE_MASK);
  if (type === undefined) throw new Error(`${file.toString()}: mode ${stat.mode} is of no type`);
  const isDevice = type === 'character' || type === 'block';
  const isLinked = type !== 'directory' && stat.nlink > 1n;
  return {
    path,
    type,
    mode: Number(stat.mode & 0o7777n),
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtimeNs: stat.mtimeNs,
    size: type === 'file' ? Number(stat.size) : 0,
    digest: type === 'file' ? digestOf(file, chunk) : '',
    linkTarget: type === 'symlink' ? readlinkSync(file, 'buffer').toString('latin1') : '',
    device: isDevice ? deviceOf(stat.rdev) : '',
    links: isLinked ? Number(stat.nlink) : 1,
    linkedTo: isLinked ? `${stat.dev}:${stat.ino}` : '',
    xattrs: readXattrs(file),
  };
}

/** Puts the first path of each inode with several names in the place of its number. Takes sorted entries. */
function nameLinkGroups(entries: readonly TreeEntry[]): TreeEntry[] {
  const firstPaths = new Map<string, ByteString>();
  return entries.map((entry) => {
    if (entry.linkedTo === '') return entry;
    const first = firstPaths.get(entry.linkedTo) ?? entry.path;
    firstPaths.set(entry.linkedTo, first);
    return { ...entry, linkedTo: first };
  });
}

function digestOf(file: Buffer, chunk: Buffer): string {
  const hash = createHash('sha256');
  const fd = openSync(file, 'r');
  try {
    for (;;) {
      const count = readSync(fd, chunk);
      if (count === 0) return hash.digest('hex');
      hash.update(chunk.subarray(0, count));
    }
  } finally {
    closeSync(fd);
  }
}

/** As glibc's gnu_dev_major and gnu_dev_minor. */
function deviceOf(rdev: bigint): string {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

parentPort?.on('message', (root: string) => parentPort?.postMessage(walk(Buffer.from(root))));

import { createHash } from 'node:crypto';
import type { ByteSource } from '../../src/format/byte-source.ts';
import type { ByteString } from '../../src/format/byte-string.ts';
import type { InodeType } from '../../src/format/erofs-layout.ts';
import { ErofsReader } from '../../src/format/erofs-reader.ts';
import type { BlockDevice } from './erofs-device.ts';

/** All that can be seen of one name, in a form that compares. */
export interface SeenInode {
  readonly type: InodeType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: readonly [seconds: number, nanoseconds: number];
  readonly nlink: number;
  /** SHA-256 of a file's content, the target of a link, the number of a device; else empty. */
  readonly content: string;
  /** Sorted by name; values in hex. */
  readonly xattrs: readonly (readonly [name: string, value: string])[];
  /** The first of all names of this inode. */
  readonly sameAs: ByteString;
}

export type TreeSnapshot = Map<ByteString, SeenInode>;

export function sortedXattrs(xattrs: ReadonlyMap<ByteString, Buffer>): [string, string][] {
  return [...xattrs].map(([name, value]): [string, string] => [name, value.toString('hex')]).sort();
}

export function contentHash(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Sorts a tree by path and finds out which names share an inode. */
export function snapshotOf(
  names: Iterable<readonly [path: ByteString, identity: unknown, seen: Omit<SeenInode, 'sameAs'>]>,
): TreeSnapshot {
  const sorted = [...names].sort(([a], [b]) => (a < b ? -1 : 1));
  const firstNames = new Map<unknown, ByteString>();
  for (const [path, identity] of sorted) {
    if (!firstNames.has(identity)) firstNames.set(identity, path);
  }
  return new Map(
    sorted.map(([path, identity, seen]) => [path, { ...seen, sameAs: firstNames.get(identity) ?? path }]),
  );
}

/** What our own reader sees. */
export async function snapshotByReader(device: ByteSource): Promise<TreeSnapshot> {
  const reader = await ErofsReader.open(device);
  const names: [ByteString, number, Omit<SeenInode, 'sameAs'>][] = [];
  for await (const { path, inode } of reader.walk()) {
    let content = '';
    if (inode.type === 'file') content = contentHash(await reader.readAll(inode));
    if (inode.type === 'symlink') content = await reader.readLink(inode);
    if (inode.type === 'character' || inode.type === 'block') content = `${inode.major}:${inode.minor}`;
    names.push([
      path,
      inode.nid,
      {
        type: inode.type,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: [inode.mtimeSeconds, inode.mtimeNanoseconds],
        nlink: inode.nlink,
        content,
        xattrs: sortedXattrs(await reader.xattrs(inode)),
      },
    ]);
  }
  return snapshotOf(names);
}

/** Paths of all that a device holds but the root. */
export async function names(device: BlockDevice): Promise<ByteString[]> {
  return [...(await snapshotByReader(device)).keys()].filter((path) => path !== '');
}

export async function seen(device: BlockDevice, path: ByteString): Promise<SeenInode | undefined> {
  return (await snapshotByReader(device)).get(path);
}

export async function nidOf(device: BlockDevice, path: ByteString): Promise<number | undefined> {
  return (await (await ErofsReader.open(device)).lookup(path))?.nid;
}

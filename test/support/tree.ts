import { Worker } from 'node:worker_threads';
import { type ByteString, toDisplay } from '../../src/format/byte-string.ts';

export type TreeEntryType = 'file' | 'directory' | 'symlink' | 'character' | 'block' | 'fifo' | 'socket';

/** All that a file system says about one path. Fields that do not belong to its type are 0 or empty. */
export interface TreeEntry {
  /** From the root of the tree, which itself is the empty path. */
  readonly path: ByteString;
  readonly type: TreeEntryType;
  /** The 12 permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
  /** Bytes of a file. */
  readonly size: number;
  /** SHA-256 of a file, in hex. */
  readonly digest: string;
  /** Of a symbolic link. */
  readonly linkTarget: ByteString;
  /** Of a device, "MAJOR:MINOR". */
  readonly device: string;
  /** How many names the inode has; always 1 for directories, where file systems count as they like. */
  readonly links: number;
  /** The first path, in byte order, of an inode with several names. */
  readonly linkedTo: ByteString;
  /** Full name → value. */
  readonly xattrs: Readonly<Record<ByteString, ByteString>>;
}

/** The fields in which two entries can differ. */
export type TreeField = Exclude<keyof TreeEntry, 'path'>;

/**
 * Reads a tree, sorted by path, without following links or entering what is mounted in it. Needs the rights to read
 * all of it. It may be served by this very process.
 */
export async function readTree(root: string): Promise<TreeEntry[]> {
  const walker = idleWalkers.pop() ?? new Worker(new URL('./tree-walk.ts', import.meta.url));
  walker.ref();
  const { promise, resolve, reject } = Promise.withResolvers<TreeEntry[]>();
  const ended = () => reject(new Error(`reading ${root} ended without a result`));
  walker.on('message', resolve).on('error', reject).on('exit', ended);
  walker.postMessage(root);
  const entries = await promise;
  walker.off('message', resolve).off('error', reject).off('exit', ended);
  walker.unref();
  idleWalkers.push(walker);
  return entries;
}

/** To start a thread takes longer than to read most trees. One that failed has ended. */
const idleWalkers: Worker[] = [];

/** How many differences are told one by one. */
const MAX_TOLD_DIFFERENCES = 30;

/**
 * What differs between two trees, a line each, for people; empty if nothing does.
 *
 * @param actual read as {@link readTree} gives it, like `expected`
 * @param ignore fields of paths that may differ
 */
export function diffTrees(
  expected: readonly TreeEntry[],
  actual: readonly TreeEntry[],
  ignore: (field: TreeField, entry: TreeEntry) => boolean = () => false,
): string[] {
  const actualByPath = new Map(actual.map((entry) => [entry.path, entry]));
  const differences: string[] = [];
  for (const entry of expected) {
    const counterpart = actualByPath.get(entry.path);
    actualByPath.delete(entry.path);
    if (counterpart === undefined) differences.push(`${named(entry)}: missing (a ${entry.type})`);
    else differences.push(...diffEntries(entry, counterpart, ignore));
  }
  for (const entry of actualByPath.values())
    differences.push(`${named(entry)}: unexpected (a ${entry.type})`);
  if (differences.length <= MAX_TOLD_DIFFERENCES) return differences;
  const untold = differences.length - MAX_TOLD_DIFFERENCES;
  return [...differences.slice(0, MAX_TOLD_DIFFERENCES), `… and ${untold} more differences`];
}

function diffEntries(
  expected: TreeEntry,
  actual: TreeEntry,
  ignore: (field: TreeField, entry: TreeEntry) => boolean,
): string[] {
  // Of another type everything else differs too.
  const fields: readonly TreeField[] = expected.type === actual.type ? FIELDS : ['type'];
  return fields
    .filter((field) => tell(field, expected) !== tell(field, actual) && !ignore(field, expected))
    .map((field) => `${named(expected)}: ${field} ${tell(field, actual)}, expected ${tell(field, expected)}`);
}

const FIELDS: readonly TreeField[] = [
  'type',
  'mode',
  'uid',
  'gid',
  'mtimeNs',
  'size',
  'digest',
  'linkTarget',
  'device',
  'links',
  'linkedTo',
  'xattrs',
];

function tell(field: TreeField, entry: TreeEntry): string {
  switch (field) {
    case 'mode':
      return `0${entry.mode.toString(8)}`;
    case 'linkTarget':
    case 'linkedTo':
      return `'${toDisplay(entry[field])}'`;
    case 'xattrs':
      return JSON.stringify(entry.xattrs);
    default:
      return String(entry[field]);
  }
}

function named(entry: TreeEntry): string {
  return entry.path === '' ? 'the root' : toDisplay(entry.path);
}

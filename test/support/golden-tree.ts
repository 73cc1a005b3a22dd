import { readFileSync } from 'node:fs';
import type { ByteString } from '../../src/format/byte-string.ts';
import type { TreeEntry, TreeEntryType } from './tree.ts';

/** A path as the sidecars write it, with numbers as text. */
interface GoldenEntry {
  readonly path: string;
  /** Python's octal, type bits included: `0o40755`. */
  readonly mode: string;
  readonly uid: string;
  readonly gid: string;
  readonly nlink: string;
  readonly ino: string;
  readonly mtime_ns: string;
  readonly size?: string;
  readonly sha256?: string;
  readonly rdev?: readonly [string, string];
  readonly link?: string;
  readonly xattr_hex?: Readonly<Record<string, string>>;
}

const TYPES: Readonly<Record<string, TreeEntryType>> = {
  '0o10': 'file',
  '0o4': 'directory',
  '0o12': 'symlink',
  '0o2': 'character',
  '0o6': 'block',
  '0o1': 'fifo',
};

/** A `tree-1-N.json` of test/golden, in the form of `readTree`. */
export function goldenTree(file: string): TreeEntry[] {
  const text = readFileSync(file, 'utf8');
  // Nanoseconds since 1970 are more than a double holds.
  const { tree } = JSON.parse(text.replace(/(?<=[:[,]\s*)-?\d+(?=\s*[,}\]])/g, '"$&"')) as {
    tree: GoldenEntry[];
  };
  const seen = tree.map(toEntry).sort((a, b) => (a.path < b.path ? -1 : 1));
  const first = new Map<string, ByteString>();
  return seen.map((entry) => {
    if (entry.linkedTo === '') return entry;
    const path = first.get(entry.linkedTo) ?? entry.path;
    first.set(entry.linkedTo, path);
    return { ...entry, linkedTo: path };
  });
}

function toEntry(golden: GoldenEntry): TreeEntry {
  const type = TYPES[golden.mode.slice(0, -4)];
  if (type === undefined) throw new Error(`${golden.path}: mode ${golden.mode}`);
  const isLinked = type !== 'directory' && golden.nlink !== '1';
  return {
    path: golden.path === '/' ? '' : fromSurrogates(golden.path),
    type,
    mode: Number.parseInt(golden.mode.slice(-4), 8),
    uid: Number(golden.uid),
    gid: Number(golden.gid),
    mtimeNs: BigInt(golden.mtime_ns),
    size: type === 'file' ? Number(golden.size) : 0,
    digest: golden.sha256 ?? '',
    linkTarget: fromSurrogates(golden.link ?? ''),
    device: golden.rdev?.join(':') ?? '',
    links: isLinked ? Number(golden.nlink) : 1,
    linkedTo: isLinked ? golden.ino : '',
    xattrs: Object.fromEntries(
      Object.entries(golden.xattr_hex ?? {}).map(([name, hex]) => [
        name,
        Buffer.from(hex, 'hex').toString('latin1'),
      ]),
    ),
  };
}

/** Python writes bytes that are no UTF-8 as lone surrogates (PEP 383). */
function fromSurrogates(text: string): ByteString {
  return Array.from(text, (char) => {
    const code = char.codePointAt(0) ?? 0;
    const isByte = code >= 0xdc80 && code <= 0xdcff;
    return isByte ? String.fromCharCode(code - 0xdc00) : Buffer.from(char).toString('latin1');
  }).join('');
}

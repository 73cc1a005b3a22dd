import { closeSync, openSync, writeSync } from 'node:fs';
import type { ByteString } from '../../src/format/byte-string.ts';
import type { TarEntryType } from '../../src/format/tar-entry.ts';
import { END_BLOCKS, paxHeader, tarMember } from './tar-blocks.ts';

/** A member of an archive to be made. Paths, link targets and xattr names are bytes (latin1 strings). */
export interface TarInput {
  readonly path: ByteString;
  /** "file" by default. */
  readonly type?: TarEntryType;
  readonly content?: Buffer;
  /** 0755 for directories, else 0644 by default. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** 2024-01-01 by default. */
  readonly mtimeNs?: bigint;
  readonly linkTarget?: ByteString;
  readonly deviceMajor?: number;
  readonly deviceMinor?: number;
  readonly xattrs?: Readonly<Record<ByteString, Buffer>>;
}

const TYPEFLAGS: Readonly<Record<TarEntryType, string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};
const DEFAULT_MTIME_NS = 1_704_067_200_000_000_000n;
/** What seven and eleven octal digits hold. */
const MAX_USTAR_ID = 0o7777777;
const MAX_USTAR_SECONDS = 0o77777777777n;

/** Writes an archive in pax format. tar-stream would do, but that it takes names for UTF-8. */
export function makeTar(entries: Iterable<TarInput>, path: string): void {
  const fd = openSync(path, 'w');
  try {
    for (const entry of entries) writeSync(fd, madeMember(entry));
    writeSync(fd, END_BLOCKS);
  } finally {
    closeSync(fd);
  }
}

/** The blocks of one member in pax format. */
export function madeMember(entry: TarInput): Buffer {
  const { type = 'file', uid = 0, gid = 0, linkTarget = '', content = '' } = entry;
  const mtimeNs = entry.mtimeNs ?? DEFAULT_MTIME_NS;
  const path = type === 'directory' && !entry.path.endsWith('/') ? `${entry.path}/` : entry.path;
  const fitsUstar =
    mtimeNs >= 0n && mtimeNs % 1_000_000_000n === 0n && mtimeNs / 1_000_000_000n <= MAX_USTAR_SECONDS;
  const records: [string, string | Buffer][] = [];
  if (path.length > 100) records.push(['path', path]);
  if (linkTarget.length > 100) records.push(['linkpath', linkTarget]);
  if (uid > MAX_USTAR_ID) records.push(['uid', String(uid)]);
  if (gid > MAX_USTAR_ID) records.push(['gid', String(gid)]);
  if (!fitsUstar) records.push(['mtime', decimalSeconds(mtimeNs)]);
  for (const [name, value] of Object.entries(entry.xattrs ?? {}))
    records.push([`SCHILY.xattr.${name}`, value]);
  const header = {
    path: path.slice(0, 100),
    type: TYPEFLAGS[type],
    mode: entry.mode ?? (type === 'directory' ? 0o755 : 0o644),
    uid: Math.min(uid, MAX_USTAR_ID),
    gid: Math.min(gid, MAX_USTAR_ID),
    mtime: fitsUstar ? Number(mtimeNs / 1_000_000_000n) : 0,
    linkTarget: linkTarget.slice(0, 100),
    deviceMajor: entry.deviceMajor ?? 0,
    deviceMinor: entry.deviceMinor ?? 0,
  };
  const member = tarMember(header, content);
  return records.length === 0 ? member : Buffer.concat([paxHeader(records), member]);
}

function decimalSeconds(ns: bigint): string {
  const magnitude = ns < 0n ? -ns : ns;
  const fraction = String(magnitude % 1_000_000_000n).padStart(9, '0');
  return `${ns < 0n ? '-' : ''}${magnitude / 1_000_000_000n}.${fraction}`;
}

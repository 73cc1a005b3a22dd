/** What a layer's entry must be like for EROFS to hold it; all else is ERR_LAYER_CONFLICT. */
import { type ByteString, toDisplay } from './byte-string.ts';
import { MAX_LINK_BYTES, MAX_NAME_BYTES } from './erofs-layout.ts';
import { FormatError } from './errors.ts';
import type { LayerEntry } from './layer-entry.ts';

/** Entries that make an inode. */
export type InodeEntry = Exclude<LayerEntry, { kind: 'hardlink' | 'whiteout' | 'opaque' }>;

const MAX_ID = 0xffff_ffff;
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xf_ffff;

export function conflict(entry: LayerEntry, problem: string): FormatError {
  return new FormatError('ERR_LAYER_CONFLICT', `${toDisplay(entry.path) || '/'} ${problem}`);
}

/** @param name one of those in the entry's path */
export function checkName(name: ByteString, entry: LayerEntry): ByteString {
  if (name.length > MAX_NAME_BYTES) throw conflict(entry, `has a name of ${name.length} bytes`);
  if (name.includes('\0')) throw conflict(entry, 'has NUL in a name');
  return name;
}

export function checkInode(entry: InodeEntry): void {
  checkId(entry, 'uid', entry.attributes.uid);
  checkId(entry, 'gid', entry.attributes.gid);
  if (entry.kind === 'symlink') {
    const { target } = entry;
    if (target.length === 0) throw conflict(entry, 'is a symbolic link to nothing');
    if (target.length > MAX_LINK_BYTES) throw conflict(entry, `is a symbolic link of ${target.length} bytes`);
    if (target.includes('\0')) throw conflict(entry, 'is a symbolic link with NUL in its target');
  } else if (entry.kind === 'character' || entry.kind === 'block') {
    const { major, minor } = entry;
    if (major > MAX_MAJOR || minor > MAX_MINOR) throw conflict(entry, `is device ${major}:${minor}`);
  }
}

function checkId(entry: InodeEntry, key: 'uid' | 'gid', id: number): void {
  if (!Number.isInteger(id) || id < 0 || id > MAX_ID) throw conflict(entry, `has ${key} ${id}`);
}

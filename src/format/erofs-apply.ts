/** What the entries of a layer do to the tree below it (OCI image-spec, layer.md). */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type ByteString, toDisplay } from './byte-string.ts';
import { MAX_LINK_BYTES, MAX_NAME_BYTES } from './erofs-layout.ts';
import { resolveDirectory, splitPath } from './erofs-path.ts';
import { DEFAULT_DIRECTORY, type LayerTree, TreeNode } from './erofs-tree.ts';
import { FormatError } from './errors.ts';
import type { Attributes, LayerEntry } from './layer-entry.ts';

type Entry<Kind extends LayerEntry['kind']> = Extract<LayerEntry, { kind: Kind }>;
type InodeEntry = Exclude<LayerEntry, { kind: 'hardlink' | 'whiteout' | 'opaque' }>;

/** Entries between two turns of the event loop, so that an abort is seen. */
const ENTRIES_PER_TURN = 4096;
const MAX_ID = 0xffff_ffff;
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xf_ffff;

/**
 * Applies a layer: what it hides first, and only in the layers below, then what it creates, in archive order.
 * Throws ERR_LAYER_CONFLICT for what no file system can hold, ERR_LIMIT for what this one cannot.
 */
export async function applyEntries(
  tree: LayerTree,
  entries: readonly LayerEntry[],
  signal?: AbortSignal,
): Promise<void> {
  await hideLower(tree, entries);
  /** Hard links whose target has not come yet, by their own path. */
  const early = new Map<ByteString, Entry<'hardlink'>>();
  let turn = ENTRIES_PER_TURN;
  for (const entry of entries) {
    if (--turn === 0) {
      turn = ENTRIES_PER_TURN;
      await nextTurn();
    }
    signal?.throwIfAborted();
    if (entry.kind === 'whiteout' || entry.kind === 'opaque') continue;
    if (early.size > 0) early.delete(normalise(entry.path));
    if (entry.kind === 'hardlink') {
      if (await addHardLink(tree, entry)) await setLinkAttributes(tree, entry);
      else early.set(normalise(entry.path), entry);
      continue;
    }
    await addInode(tree, entry);
  }
  await addEarlyLinks(tree, early);
}

function normalise(path: ByteString): ByteString {
  return splitPath(path).join('/');
}

/**
 * Takes away what the layer hides. All paths are looked up before the first one goes, so that their order in
 * the archive does not matter. A link below that this layer replaces is not followed: what it hides under that
 * path would stand in the new directory, not where the old link led.
 */
async function hideLower(tree: LayerTree, entries: readonly LayerEntry[]): Promise<void> {
  let ownPaths: Set<ByteString> | null = null;
  const isReplaced = (path: ByteString): boolean => {
    ownPaths ??= new Set(
      entries.filter(({ kind }) => kind !== 'opaque').map((entry) => normalise(entry.path)),
    );
    return ownPaths.has(path);
  };
  const hidden: { directory: TreeNode; name: ByteString | null }[] = [];
  for (const entry of entries) {
    if (entry.kind !== 'whiteout' && entry.kind !== 'opaque') continue;
    const names = splitPath(entry.path);
    const name = entry.kind === 'opaque' ? null : names.pop();
    if (name === undefined) throw conflict(entry, 'hides the root');
    const found = await resolveDirectory(tree, names, isReplaced);
    if (found.kind === 'blocked' || found.missing.length > 0) continue;
    hidden.push({ directory: found.directory, name });
  }
  for (const { directory, name } of hidden) {
    if (name === null) await tree.removeChildren(directory);
    else await tree.remove(directory, name);
  }
}

async function addInode(tree: LayerTree, entry: InodeEntry): Promise<void> {
  checkInode(entry);
  const names = splitPath(entry.path);
  const name = names.pop();
  if (name === undefined) {
    if (entry.kind !== 'directory') throw conflict(entry, `puts a ${entry.kind} in the place of the root`);
    tree.setAttributes(tree.root, entry.attributes);
    return;
  }
  const directory = await makeDirectories(tree, names, entry);
  if (entry.kind === 'directory') {
    const existing = await tree.child(directory, name);
    if (existing?.type === 'directory') {
      tree.setAttributes(existing, entry.attributes);
      return;
    }
  }
  await tree.remove(directory, checkName(name, entry));
  const content = entry.kind === 'directory' || entry.kind === 'fifo' ? null : entry;
  const parent = entry.kind === 'directory' ? directory : null;
  await tree.add(
    directory,
    name,
    new TreeNode(entry.kind, { attributes: entry.attributes, content }, parent),
  );
}

/** False if the target is not there (yet). */
async function addHardLink(tree: LayerTree, entry: Entry<'hardlink'>): Promise<boolean> {
  const target = await find(tree, entry.target);
  if (target === null) return false;
  if (target.type === 'directory') throw conflict(entry, `links to the directory ${toDisplay(entry.target)}`);
  const names = splitPath(entry.path);
  const name = names.pop();
  if (name === undefined) throw conflict(entry, 'puts a hard link in the place of the root');
  const directory = await makeDirectories(tree, names, entry);
  if ((await tree.child(directory, name)) === target) return true;
  await tree.remove(directory, checkName(name, entry));
  if (target.links === 0) throw conflict(entry, `replaces its own target ${toDisplay(entry.target)}`);
  await tree.add(directory, name, target);
  return true;
}

/**
 * What containerd does after link(2): owner, mode and time are those of the last entry that names the inode, even
 * where that is a link. Its xattrs are left alone: unpackers disagree, and archivers repeat those of the target.
 */
async function setLinkAttributes(tree: LayerTree, entry: Entry<'hardlink'>): Promise<void> {
  const linked = entry.changes === null ? null : await find(tree, entry.path);
  if (linked !== null && entry.changes !== null) await tree.setOwnAttributes(linked, entry.changes);
}

/** Makes the links that came before their targets, whose attributes stay; one may be the target of another. */
async function addEarlyLinks(tree: LayerTree, early: Map<ByteString, Entry<'hardlink'>>): Promise<void> {
  for (const [first] of early) {
    const chain: Entry<'hardlink'>[] = [];
    for (let path = first, link = early.get(path); link !== undefined; link = early.get(path)) {
      early.delete(path);
      chain.push(link);
      if ((await find(tree, link.target)) !== null) break;
      path = normalise(link.target);
    }
    for (const link of chain.reverse()) {
      if (!(await addHardLink(tree, link))) {
        throw conflict(link, `links to ${toDisplay(link.target)}, which is not there`);
      }
    }
  }
}

/** What stands at a path (the last name is not followed), or null. */
async function find(tree: LayerTree, path: ByteString): Promise<TreeNode | null> {
  const names = splitPath(path);
  const name = names.pop();
  if (name === undefined) return tree.root;
  const found = await resolveDirectory(tree, names);
  if (found.kind === 'blocked' || found.missing.length > 0) return null;
  return tree.child(found.directory, name);
}

async function makeDirectories(
  tree: LayerTree,
  names: readonly ByteString[],
  entry: LayerEntry,
): Promise<TreeNode> {
  const found = await resolveDirectory(tree, names);
  if (found.kind === 'blocked') throw conflict(entry, found.reason);
  let directory = found.directory;
  for (const name of found.missing) {
    const made = new TreeNode('directory', { attributes: DEFAULT_DIRECTORY, content: null }, directory);
    await tree.add(directory, checkName(name, entry), made);
    directory = made;
  }
  return directory;
}

function checkName(name: ByteString, entry: LayerEntry): ByteString {
  if (name.length > MAX_NAME_BYTES) throw conflict(entry, `has a name of ${name.length} bytes`);
  if (name.includes('\0')) throw conflict(entry, 'has NUL in a name');
  return name;
}

function checkInode(entry: InodeEntry): void {
  checkId(entry, entry.attributes, 'uid');
  checkId(entry, entry.attributes, 'gid');
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

function checkId(entry: InodeEntry, attributes: Attributes, key: 'uid' | 'gid'): void {
  const id = attributes[key];
  if (!Number.isInteger(id) || id < 0 || id > MAX_ID) throw conflict(entry, `has ${key} ${id}`);
}

function conflict(entry: LayerEntry, problem: string): FormatError {
  return new FormatError('ERR_LAYER_CONFLICT', `${toDisplay(entry.path) || '/'} ${problem}`);
}

/** What the entries of a layer do to the tree below it (OCI image-spec, layer.md). */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type ByteString, toDisplay } from './byte-string.ts';
import { checkInode, checkName, conflict, type InodeEntry } from './erofs-entry-check.ts';
import { ParentDirectories } from './erofs-parents.ts';
import { resolveDirectory, splitPath } from './erofs-path.ts';
import { type LayerTree, TreeNode } from './erofs-tree.ts';
import type { LayerEntry } from './layer-entry.ts';

type Entry<Kind extends LayerEntry['kind']> = Extract<LayerEntry, { kind: Kind }>;

/** Entries between two turns of the event loop, so that an abort is seen. */
const ENTRIES_PER_TURN = 4096;

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
  const parents = new ParentDirectories(tree);
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
      if (await addHardLink(tree, parents, entry)) await setLinkAttributes(tree, entry);
      else early.set(normalise(entry.path), entry);
      continue;
    }
    if (!addNearLast(tree, parents, entry)) await addInode(tree, parents, entry);
  }
  await addEarlyLinks(tree, parents, early);
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

/**
 * Adds what stands near the entry before it in the tree under a name that is free. False, and nothing is done, for
 * all else, which takes longer.
 */
function addNearLast(tree: LayerTree, parents: ParentDirectories, entry: InodeEntry): boolean {
  const { path } = entry;
  const slash = path.lastIndexOf('/');
  const directory = parents.recent(path.slice(0, Math.max(0, slash)));
  const name = path.slice(slash + 1);
  if (directory === null || directory.children?.has(name) || !isPlain(name)) return false;
  checkInode(entry);
  const node = newNode(entry, directory);
  tree.add(directory, checkName(name, entry), node);
  if (entry.kind === 'directory') parents.made(path, node);
  return true;
}

function isPlain(name: ByteString): boolean {
  return name !== '' && name !== '.' && name !== '..';
}

async function addInode(tree: LayerTree, parents: ParentDirectories, entry: InodeEntry): Promise<void> {
  checkInode(entry);
  const names = splitPath(entry.path);
  const name = names.pop();
  if (name === undefined) {
    if (entry.kind !== 'directory') throw conflict(entry, `puts a ${entry.kind} in the place of the root`);
    tree.setAttributes(tree.root, entry.attributes);
    return;
  }
  const directory = await parents.make(names, entry);
  if (entry.kind === 'directory') {
    const existing = await tree.child(directory, name);
    if (existing?.type === 'directory') {
      tree.setAttributes(existing, entry.attributes);
      return;
    }
  }
  await tree.remove(directory, checkName(name, entry));
  tree.add(directory, name, newNode(entry, directory));
}

function newNode(entry: InodeEntry, directory: TreeNode): TreeNode {
  const content = entry.kind === 'directory' || entry.kind === 'fifo' ? null : entry;
  const parent = entry.kind === 'directory' ? directory : null;
  return new TreeNode(entry.kind, { attributes: entry.attributes, content }, parent);
}

/** False if the target is not there (yet). */
async function addHardLink(
  tree: LayerTree,
  parents: ParentDirectories,
  entry: Entry<'hardlink'>,
): Promise<boolean> {
  const target = await find(tree, entry.target);
  if (target === null) return false;
  if (target.type === 'directory') throw conflict(entry, `links to the directory ${toDisplay(entry.target)}`);
  const names = splitPath(entry.path);
  const name = names.pop();
  if (name === undefined) throw conflict(entry, 'puts a hard link in the place of the root');
  const directory = await parents.make(names, entry);
  if ((await tree.child(directory, name)) === target) return true;
  await tree.remove(directory, checkName(name, entry));
  if (target.links === 0) throw conflict(entry, `replaces its own target ${toDisplay(entry.target)}`);
  tree.add(directory, name, target);
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
async function addEarlyLinks(
  tree: LayerTree,
  parents: ParentDirectories,
  early: Map<ByteString, Entry<'hardlink'>>,
): Promise<void> {
  for (const [first] of early) {
    const chain: Entry<'hardlink'>[] = [];
    for (let path = first, link = early.get(path); link !== undefined; link = early.get(path)) {
      early.delete(path);
      chain.push(link);
      if ((await find(tree, link.target)) !== null) break;
      path = normalise(link.target);
    }
    for (const link of chain.reverse()) {
      if (!(await addHardLink(tree, parents, link))) {
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

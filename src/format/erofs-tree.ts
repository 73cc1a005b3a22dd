import type { ByteString } from './byte-string.ts';
import type { DirectoryEntry } from './erofs-directory.ts';
import { corrupt, type ErofsInode, INODE_BYTES, type InodeType, ROOT_NID } from './erofs-layout.ts';
import type { ErofsReader } from './erofs-reader.ts';
import { FormatError } from './errors.ts';
import type { Attributes, LayerEntry } from './layer-entry.ts';

/** What a directory of the tree holds under a name: a node, or an entry of the layers below, not yet looked at. */
type Child = TreeNode | DirectoryEntry;

/** What a new inode holds besides attributes. */
export type NodeContent = Extract<LayerEntry, { kind: 'file' | 'symlink' | 'character' | 'block' }>;

/** One inode of the merged tree: new in this layer, or of the layers below (`lower`) and touched by it. */
export class TreeNode {
  readonly type: InodeType;
  readonly lower: ErofsInode | null;
  readonly content: NodeContent | null;
  /** Of a directory: the one that holds it; the root's own is null. */
  readonly parent: TreeNode | null;
  /** New attributes; null where those of `lower` stay. */
  attributes: Attributes | null;
  /** Names that lead here, and for a directory 2 + subdirectories; 0 when it is gone. */
  links: number;
  /** Of a directory, once somebody looked. */
  children: Map<ByteString, Child> | null;
  /** Of a directory with `lower` and `children`: the first name of each block that it has there. */
  firstNames: readonly ByteString[] = [];
  /** -1 until it has a place. */
  nid: number;
  /** Set on nodes with `lower`: the inode differs. */
  changed = false;
  /** The directory's names differ, or lead elsewhere. */
  childrenChanged = false;

  constructor(
    type: InodeType,
    origin: { lower: ErofsInode } | { attributes: Attributes; content: NodeContent | null },
    parent: TreeNode | null,
  ) {
    this.type = type;
    this.parent = parent;
    if ('lower' in origin) {
      this.lower = origin.lower;
      this.attributes = null;
      this.content = null;
      this.links = origin.lower.nlink;
      this.children = null;
      this.nid = origin.lower.nid;
    } else {
      this.lower = null;
      this.attributes = origin.attributes;
      this.content = origin.content;
      this.links = type === 'directory' ? 2 : 0;
      this.children = type === 'directory' ? new Map() : null;
      this.nid = -1;
    }
  }
}

/** Leaves room to count further in 32 bits. */
const MAX_LINKS = 0x7fff_ffff;

/** Of directories that no archive lists. */
export const DEFAULT_DIRECTORY: Attributes = {
  mode: 0o755,
  uid: 0,
  gid: 0,
  mtimeSeconds: 0,
  mtimeNanoseconds: 0,
  xattrs: new Map(),
};

/**
 * The tree of the layers below with the changes of one layer: each directory and inode is read when it is
 * first looked at, and what was changed is remembered.
 */
export class LayerTree {
  readonly root: TreeNode;
  /** Nodes of the layers below whose inode changes, in the order of the changes. Some are gone since (links 0). */
  readonly changed: TreeNode[] = [];
  readonly #reader: ErofsReader | null;
  readonly #signal: AbortSignal | undefined;
  readonly #byNid = new Map<number, TreeNode>();
  #removedInodes = 0;

  private constructor(root: TreeNode, reader: ErofsReader | null, signal: AbortSignal | undefined) {
    this.root = root;
    this.#reader = reader;
    this.#signal = signal;
    this.#byNid.set(root.nid, root);
  }

  /** Over the file system of the layers below, or over none. */
  static async open(reader: ErofsReader | null, signal?: AbortSignal): Promise<LayerTree> {
    if (reader === null) {
      const root = new TreeNode('directory', { attributes: DEFAULT_DIRECTORY, content: null }, null);
      root.nid = ROOT_NID;
      return new LayerTree(root, null, signal);
    }
    const inode = await reader.root(signal);
    if (inode.type !== 'directory') throw corrupt('the root is not a directory');
    if (inode.nid !== ROOT_NID || reader.inodeOffset(0) !== 0) {
      throw new FormatError(
        'ERR_UNSUPPORTED',
        'EROFS: the file system below was not written by this converter',
      );
    }
    checkLinks(inode);
    return new LayerTree(new TreeNode('directory', { lower: inode }, null), reader, signal);
  }

  /** How many inodes of the layers below are gone. */
  get removedInodes(): number {
    return this.#removedInodes;
  }

  /** The children of a directory by name. */
  async children(directory: TreeNode): Promise<Map<ByteString, Child>> {
    if (directory.children !== null) return directory.children;
    const children = new Map<ByteString, Child>();
    const firstNames: ByteString[] = [];
    const reader = this.#readerOf(directory);
    for (const entry of await reader.readDirectory(this.#lowerOf(directory), this.#signal, firstNames)) {
      children.set(entry.name, entry);
    }
    directory.firstNames = firstNames;
    directory.children = children;
    return children;
  }

  /** What a directory holds under a name, or null. */
  async child(directory: TreeNode, name: ByteString): Promise<TreeNode | null> {
    const children = directory.children ?? (await this.children(directory));
    const child = children.get(name);
    if (child === undefined || child instanceof TreeNode) return child ?? null;
    const node = await this.#lowerNode(child, directory);
    children.set(name, node);
    return node;
  }

  /** The same without waiting; null, too, where it has not been looked at yet. */
  seenChild(directory: TreeNode, name: ByteString): TreeNode | null {
    const child = directory.children?.get(name);
    return child instanceof TreeNode ? child : null;
  }

  /** The target of a symbolic link. */
  async linkTarget(link: TreeNode): Promise<ByteString> {
    if (link.content?.kind === 'symlink') return link.content.target;
    return this.#readerOf(link).readLink(this.#lowerOf(link), this.#signal);
  }

  /** Gives an inode other attributes, but for the xattrs and a symbolic link's mode. */
  async setOwnAttributes(node: TreeNode, attributes: Omit<Attributes, 'xattrs'>): Promise<void> {
    const before = node.attributes ?? this.#lowerOf(node);
    const mode = node.type === 'symlink' ? before.mode : attributes.mode;
    const xattrs =
      node.attributes?.xattrs ?? (await this.#readerOf(node).xattrs(this.#lowerOf(node), this.#signal));
    this.setAttributes(node, { ...attributes, mode, xattrs });
  }

  /** Gives `node` a (further) name in a directory that somebody looked into; it must be free. */
  add(directory: TreeNode, name: ByteString, node: TreeNode): void {
    if (directory.children === null)
      throw new Error('a name is added to a directory that nobody looked into');
    directory.children.set(name, node);
    if (node.type === 'directory') directory.links++;
    else node.links++;
    this.markChanged(node);
    this.markChildrenChanged(directory);
  }

  /** Takes a name away, and with the last one the inode; a directory goes with all it holds. */
  async remove(directory: TreeNode, name: ByteString): Promise<void> {
    const children = directory.children ?? (await this.children(directory));
    const child = children.get(name);
    if (child === undefined) return;
    children.delete(name);
    if (child.type === 'directory' && --directory.links < 2) {
      throw corrupt(`directory ${directory.nid} has more directories than its link count says`);
    }
    this.markChildrenChanged(directory);
    await this.#release(child, directory);
  }

  /** Takes all names in a directory away. */
  async removeChildren(directory: TreeNode): Promise<void> {
    const children = await this.children(directory);
    for (const name of [...children.keys()]) await this.remove(directory, name);
  }

  setAttributes(node: TreeNode, attributes: Attributes): void {
    node.attributes = attributes;
    this.markChanged(node);
  }

  markChildrenChanged(directory: TreeNode): void {
    directory.childrenChanged = true;
    this.markChanged(directory);
  }

  markChanged(node: TreeNode): void {
    if (node.lower === null || node.changed) return;
    if (node.lower.inodeBytes !== INODE_BYTES) {
      throw new FormatError('ERR_UNSUPPORTED', `EROFS: inode ${node.nid} is compact and cannot be changed`);
    }
    node.changed = true;
    this.changed.push(node);
  }

  /** The inode of an entry of the layers below: the same node for all its names. */
  async #lowerNode(entry: DirectoryEntry, directory: TreeNode): Promise<TreeNode> {
    const known = this.#byNid.get(entry.nid);
    if (known !== undefined) {
      if (known.type !== entry.type || known.type === 'directory') {
        throw corrupt(`inode ${entry.nid} is a ${known.type} and was met before`);
      }
      return known;
    }
    const inode = await this.#readerOf(directory).inode(entry.nid, this.#signal);
    if (inode.type !== entry.type)
      throw corrupt(`inode ${entry.nid} is not the ${entry.type} its entry says`);
    checkLinks(inode);
    const node = new TreeNode(inode.type, { lower: inode }, inode.type === 'directory' ? directory : null);
    this.#byNid.set(inode.nid, node);
    return node;
  }

  async #release(first: Child, holder: TreeNode): Promise<void> {
    const pending: { child: Child; holder: TreeNode }[] = [{ child: first, holder }];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const { child, holder: directory } = next;
      if (child.type !== 'directory') {
        await this.#releaseName(child, directory);
        continue;
      }
      const node = child instanceof TreeNode ? child : await this.#lowerNode(child, directory);
      // The first is looked at first: inodes stand in this order, and are read ahead in it.
      for (const below of [...(await this.children(node)).values()].reverse()) {
        pending.push({ child: below, holder: node });
      }
      node.children = new Map();
      this.#drop(node);
    }
  }

  /** One name less for something that is not a directory. */
  async #releaseName(child: Child, directory: TreeNode): Promise<void> {
    if (!(child instanceof TreeNode)) {
      const inode = await this.#readerOf(directory).inode(child.nid, this.#signal);
      if (inode.nlink === 1 && inode.type === child.type) {
        // By far the most frequent case: nothing has to be remembered of it.
        this.#removedInodes++;
        return;
      }
    }
    const node = child instanceof TreeNode ? child : await this.#lowerNode(child, directory);
    if (node.links > 1) {
      node.links--;
      this.markChanged(node);
    } else {
      this.#drop(node);
    }
  }

  #drop(node: TreeNode): void {
    node.links = 0;
    if (node.lower !== null) this.#removedInodes++;
  }

  #readerOf(node: TreeNode): ErofsReader {
    if (this.#reader === null) throw new Error(`a new file system has no ${node.type} of layers below`);
    return this.#reader;
  }

  #lowerOf(node: TreeNode): ErofsInode {
    if (node.lower === null) throw new Error(`a new ${node.type} has no inode in the layers below`);
    return node.lower;
  }
}

function checkLinks({ nid, type, nlink }: ErofsInode): void {
  if (nlink < (type === 'directory' ? 2 : 1) || nlink > MAX_LINKS) {
    throw corrupt(`inode ${nid} has ${nlink} links`);
  }
}

/**
 * OCI layering in memory, written from the image specification (layer.md) without regard to any disk format:
 * the measure for what the real thing does.
 */
import type { ByteString } from '../../src/format/byte-string.ts';
import type { Attributes, LayerEntry } from '../../src/format/layer-entry.ts';
import { type SeenInode, snapshotOf, sortedXattrs, type TreeSnapshot } from './tree-snapshot.ts';

interface Directory {
  readonly type: 'directory';
  attributes: Attributes;
  readonly names: Map<ByteString, Inode>;
}

interface Leaf {
  readonly type: 'file' | 'symlink' | 'character' | 'block' | 'fifo';
  attributes: Attributes;
  readonly content: string;
}

type Inode = Directory | Leaf;

/** The layer asks for something that no file system can do. */
export class ModelConflict extends Error {}

const IMPLICIT: Attributes = {
  mode: 0o755,
  uid: 0,
  gid: 0,
  mtimeSeconds: 0,
  mtimeNanoseconds: 0,
  xattrs: new Map(),
};
const MAX_HOPS = 255;

export class LayerModel {
  #root: Directory = { type: 'directory', attributes: IMPLICIT, names: new Map() };

  /** Applies a layer, all or nothing. `contentOf` gives what stands in {@link SeenInode} for a file's content. */
  apply(entries: readonly LayerEntry[], contentOf: (entry: LayerEntry) => string): void {
    const before = this.#root;
    this.#root = copyOf(before);
    try {
      this.#hide(entries);
      let late = entries.filter((entry, index) => {
        if (entry.kind === 'whiteout' || entry.kind === 'opaque') return false;
        if (entry.kind === 'hardlink') {
          const linked = this.#link(entry.path, entry.target);
          if (linked && entry.changes !== null) this.#change(entry.path, entry.changes);
          return !linked && !isReplaced(entries, index);
        }
        this.#create(entry, contentOf(entry));
        return false;
      });
      while (late.length > 0) {
        const still = late.filter(
          (entry) => entry.kind === 'hardlink' && !this.#link(entry.path, entry.target),
        );
        if (still.length === late.length) throw new ModelConflict('hard links to nothing');
        late = still;
      }
    } catch (error) {
      this.#root = before;
      throw error;
    }
  }

  /** Paths of everything that can be linked to. */
  leaves(): ByteString[] {
    return [...this.#everything()].filter(([, inode]) => inode.type !== 'directory').map(([path]) => path);
  }

  /** Paths of directories and symbolic links. */
  parents(): ByteString[] {
    return [...this.#everything()]
      .filter(([, { type }]) => type === 'directory' || type === 'symlink')
      .map(([path]) => path);
  }

  paths(): ByteString[] {
    return [...this.#everything()].map(([path]) => path);
  }

  snapshot(): TreeSnapshot {
    const links = new Map<Inode, number>();
    for (const [, inode] of this.#everything()) links.set(inode, (links.get(inode) ?? 0) + 1);
    const names: [ByteString, Inode, Omit<SeenInode, 'sameAs'>][] = [];
    for (const [path, inode] of this.#everything()) {
      const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs } = inode.attributes;
      const isDirectory = inode.type === 'directory';
      const nlink = isDirectory
        ? 2 + [...inode.names.values()].filter((child) => child.type === 'directory').length
        : (links.get(inode) ?? 0);
      names.push([
        path,
        inode,
        {
          type: inode.type,
          mode,
          uid,
          gid,
          mtime: [mtimeSeconds, mtimeNanoseconds],
          nlink,
          content: isDirectory ? '' : inode.content,
          xattrs: sortedXattrs(xattrs),
        },
      ]);
    }
    return snapshotOf(names);
  }

  inodes(): number {
    return new Set([...this.#everything()].map(([, inode]) => inode)).size;
  }

  *#everything(path = '', inode: Inode = this.#root): Generator<[ByteString, Inode]> {
    yield [path, inode];
    if (inode.type !== 'directory') return;
    for (const [name, child] of inode.names)
      yield* this.#everything(path === '' ? name : `${path}/${name}`, child);
  }

  /** All markers speak of the tree below as it was: first find everything, then take it away. */
  #hide(entries: readonly LayerEntry[]): void {
    const own = new Set(entries.filter(({ kind }) => kind !== 'opaque').map(({ path }) => path));
    const removals: (() => void)[] = [];
    for (const entry of entries) {
      if (entry.kind !== 'whiteout' && entry.kind !== 'opaque') continue;
      const names = entry.path.split('/').filter((name) => name !== '');
      const last = entry.kind === 'whiteout' ? names.pop() : undefined;
      const holder = this.#follow(names, 'look', own)?.at(-1);
      if (holder === undefined) continue;
      removals.push(() => {
        if (last === undefined) holder.names.clear();
        else holder.names.delete(last);
      });
    }
    for (const remove of removals) remove();
  }

  #create(entry: Exclude<LayerEntry, { kind: 'hardlink' | 'whiteout' | 'opaque' }>, content: string): void {
    const names = entry.path.split('/').filter((name) => name !== '');
    const last = names.pop();
    if (last === undefined) {
      if (entry.kind !== 'directory') throw new ModelConflict('the root must be a directory');
      this.#root.attributes = entry.attributes;
      return;
    }
    const holder = this.#make(names);
    const there = holder.names.get(last);
    if (entry.kind === 'directory' && there?.type === 'directory') there.attributes = entry.attributes;
    else if (entry.kind === 'directory') {
      holder.names.set(last, { type: 'directory', attributes: entry.attributes, names: new Map() });
    } else holder.names.set(last, { type: entry.kind, attributes: entry.attributes, content });
  }

  #link(path: ByteString, target: ByteString): boolean {
    const from = target.split('/').filter((name) => name !== '');
    const fromName = from.pop();
    const inode =
      fromName === undefined ? this.#root : this.#follow(from, 'look')?.at(-1)?.names.get(fromName);
    if (inode === undefined) return false;
    if (inode.type === 'directory') throw new ModelConflict('a hard link to a directory');
    const to = path.split('/').filter((name) => name !== '');
    const toName = to.pop();
    if (toName === undefined) throw new ModelConflict('a hard link as the root');
    const holder = this.#make(to);
    const replaced = holder.names.get(toName);
    if (replaced === inode) return true;
    holder.names.delete(toName);
    if (![...this.#everything()].some(([, other]) => other === inode))
      throw new ModelConflict('its own target');
    holder.names.set(toName, inode);
    return true;
  }

  /** A link brings its inode owner, time and mode, but xattrs not, and links have no mode of their own. */
  #change(path: ByteString, changes: Omit<Attributes, 'xattrs'>): void {
    const names = path.split('/').filter((name) => name !== '');
    const name = names.pop() as ByteString;
    const inode = this.#make(names).names.get(name) as Inode;
    const { mode, xattrs } = inode.attributes;
    inode.attributes = { ...changes, mode: inode.type === 'symlink' ? mode : changes.mode, xattrs };
  }

  #make(names: readonly ByteString[]): Directory {
    const holder = this.#follow(names, 'make')?.at(-1);
    if (holder === undefined) throw new ModelConflict('not a directory');
    return holder;
  }

  /** The directories on the way along `names`, the root first; undefined if the way ends before. */
  #follow(
    names: readonly ByteString[],
    missing: 'look' | 'make',
    own: ReadonlySet<ByteString> = new Set(),
  ): Directory[] | undefined {
    // Names that are missing are only made when the whole way is known: ".." may take them back.
    let way: { directory: Directory; name: ByteString }[] = [{ directory: this.#root, name: '' }];
    let hops = 0;
    const left = [...names];
    while (left.length > 0) {
      const name = left.shift() as ByteString;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (way.length > 1) way.pop();
        continue;
      }
      const here = (way.at(-1) as { directory: Directory }).directory;
      const child = here.names.get(name);
      const path = [...way.slice(1).map((step) => step.name), name].join('/');
      if (child === undefined || (child.type === 'symlink' && own.has(path))) {
        if (missing === 'look' && own.size === 0 && !left.includes('..')) return undefined;
        way.push({ directory: { type: 'directory', attributes: IMPLICIT, names: new Map() }, name });
      } else if (child.type === 'directory') way.push({ directory: child, name });
      else if (child.type !== 'symlink') return undefined;
      else {
        if (++hops > MAX_HOPS) return undefined;
        if (child.content.startsWith('/')) way = way.slice(0, 1);
        left.unshift(...child.content.split('/'));
      }
    }
    for (let index = 1; index < way.length; index++) {
      const above = (way[index - 1] as { directory: Directory }).directory;
      const { directory, name } = way[index] as { directory: Directory; name: ByteString };
      if (above.names.get(name) === directory) continue;
      if (missing === 'look') return undefined;
      above.names.set(name, directory);
    }
    return way.map((step) => step.directory);
  }
}

/** A later entry has the same path. */
function isReplaced(entries: readonly LayerEntry[], index: number): boolean {
  const path = entries[index]?.path;
  return entries.slice(index + 1).some((later) => later.path === path && !/whiteout|opaque/.test(later.kind));
}

/** A copy in which hard links still share their inode. */
function copyOf(directory: Directory, copies = new Map<Leaf, Leaf>()): Directory {
  const names = new Map<ByteString, Inode>();
  for (const [name, child] of directory.names) {
    if (child.type === 'directory') {
      names.set(name, copyOf(child, copies));
      continue;
    }
    const copy = copies.get(child) ?? { ...child };
    copies.set(child, copy);
    names.set(name, copy);
  }
  return { type: 'directory', attributes: directory.attributes, names };
}

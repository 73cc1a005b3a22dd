import type { ByteString } from './byte-string.ts';
import { checkName, conflict } from './erofs-entry-check.ts';
import { resolveDirectory } from './erofs-path.ts';
import { DEFAULT_DIRECTORY, type LayerTree, TreeNode } from './erofs-tree.ts';
import type { LayerEntry } from './layer-entry.ts';

/** The directories that a layer's entries go into. */
export class ParentDirectories {
  readonly #tree: LayerTree;
  /** The last one that an entry went into or made, and its path, on which there is no link. */
  #last: TreeNode | null = null;
  #lastPath: ByteString = '';

  constructor(tree: LayerTree) {
    this.#tree = tree;
  }

  /**
   * The directory at a normalised path if it is the last one, or above that one (archives mostly are in the order of
   * the tree), and still there; its children have been looked at. Else null.
   */
  recent(path: ByteString): TreeNode | null {
    while (this.#last !== null && this.#lastPath.length > path.length) {
      this.#last = this.#last.parent;
      this.#lastPath = this.#lastPath.slice(0, Math.max(0, this.#lastPath.lastIndexOf('/')));
    }
    return this.#last !== null && this.#last.links > 0 && path === this.#lastPath ? this.#last : null;
  }

  /** Says that `directory` was made at `path`, in one that is recent. */
  made(path: ByteString, directory: TreeNode): void {
    this.#last = directory;
    this.#lastPath = path;
  }

  /** The directory at a path, whose children have been looked at. What is missing of it is made for `entry`. */
  async make(names: readonly ByteString[], entry: LayerEntry): Promise<TreeNode> {
    const tree = this.#tree;
    const found = await resolveDirectory(tree, names);
    if (found.kind === 'blocked') throw conflict(entry, found.reason);
    let { directory } = found;
    await tree.children(directory);
    for (const name of found.missing) {
      const made = new TreeNode('directory', { attributes: DEFAULT_DIRECTORY, content: null }, directory);
      tree.add(directory, checkName(name, entry), made);
      directory = made;
    }
    // Where a link leads may change while its own path and the directory's stay.
    if (found.links === 0) {
      this.#lastPath = names.join('/');
      this.#last = directory;
    }
    return directory;
  }
}

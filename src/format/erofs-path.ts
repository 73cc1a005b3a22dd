import type { ByteString } from './byte-string.ts';
import type { LayerTree, TreeNode } from './erofs-tree.ts';

/** How many symbolic links one path may pass through. */
const MAX_HOPS = 255;

/** The names in a path as an archive gives it: without empty ones, ".", and ".." with the name before it. */
export function splitPath(path: ByteString): ByteString[] {
  const names: ByteString[] = [];
  for (const name of path.split('/')) {
    if (name === '' || name === '.') continue;
    if (name === '..') names.pop();
    else names.push(name);
  }
  return names;
}

/** Where a path leads. */
export type Resolved =
  /**
   * To `directory`, or to a directory that would be below it if the names in `missing` were made; through `links`
   * symbolic links.
   */
  | {
      readonly kind: 'directory';
      readonly directory: TreeNode;
      readonly missing: readonly ByteString[];
      readonly links: number;
    }
  /** Nowhere: something that is not a directory stands in the way, or links without end. */
  | { readonly kind: 'blocked'; readonly reason: string };

/**
 * Follows directory names through the tree and its symbolic links, all scoped to the root: absolute targets
 * start there, and ".." does not leave it.
 *
 * @param isReplaced Says of a link's own path that it shall be taken for missing.
 */
export async function resolveDirectory(
  tree: LayerTree,
  names: readonly ByteString[],
  isReplaced: ((path: ByteString) => boolean) | null = null,
): Promise<Resolved> {
  const pending = names.toReversed();
  /** The way from the root to `directory`, and behind it the names that are missing. */
  const trail: ByteString[] = [];
  let missing = 0;
  let directory = tree.root;
  let links = 0;
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    if (name === '' || name === '.') continue;
    if (name === '..') {
      trail.pop();
      if (missing > 0) missing--;
      else directory = directory.parent ?? tree.root;
      continue;
    }
    const child =
      missing > 0 ? null : (tree.seenChild(directory, name) ?? (await tree.child(directory, name)));
    trail.push(name);
    if (child === null) {
      missing++;
    } else if (child.type === 'directory') {
      directory = child;
    } else if (child.type !== 'symlink') {
      return { kind: 'blocked', reason: `one of its parents is a ${child.type}` };
    } else if (isReplaced?.(trail.join('/'))) {
      missing++;
    } else {
      if (++links > MAX_HOPS) return { kind: 'blocked', reason: 'too many symbolic links' };
      trail.pop();
      const target = await tree.linkTarget(child);
      if (target.startsWith('/')) {
        directory = tree.root;
        trail.length = 0;
      }
      for (const part of target.split('/').reverse()) pending.push(part);
    }
  }
  return { kind: 'directory', directory, missing: trail.slice(trail.length - missing), links };
}

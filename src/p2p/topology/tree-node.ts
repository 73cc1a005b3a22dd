/** A member, as a tree has to know it. */
export interface TreeMember {
  readonly id: string;
  /** Members of one zone are near each other. */
  readonly zone: string;
  /** How many children it may have, from 0 to MAX_SLOTS. */
  readonly slots: number;
}

/** A member in its place. */
export interface TreeNode {
  readonly id: string;
  zone: string;
  slots: number;
  /** Null: at the top. */
  parent: TreeNode | null;
  readonly children: Set<TreeNode>;
  /** 1 at the top. */
  depth: number;
  /** Members that joined earlier have lower ones. */
  readonly order: number;
  /** Members that it will not have as a parent, the latest last. */
  readonly avoids: Set<string>;
}

export function hasRoom({ children, slots }: TreeNode): boolean {
  return children.size < slots;
}

/** Whether `node` is `above`, or stands below it. */
export function isWithin(node: TreeNode, above: TreeNode): boolean {
  for (let at: TreeNode | null = node; at !== null; at = at.parent) {
    if (at === above) return true;
  }
  return false;
}

/** Levels that the branch of a member fills, its own included. */
export function heightOf(node: TreeNode): number {
  let level = [...node.children];
  let height = 1;
  while (level.length > 0) {
    height += 1;
    level = level.flatMap(({ children }) => [...children]);
  }
  return height;
}

import { hasRoom, type TreeNode } from './tree-node.ts';

/** Has a member stand below another one, or at the top. */
type Put = (node: TreeNode, parent: TreeNode | null) => void;

/**
 * A tree made anew, level by level, of least depth for the order in which members are given; each keeps its parent where
 * that fits, else comes below one of its zone if it can. Only who avoids all that have a free slot, and those for whom
 * there is none, stand at the top beyond `tops`.
 * @param nodes those that stand highest first; they must have no children
 * @param parentBefore of each member
 */
export function layOut(
  nodes: readonly TreeNode[],
  tops: number,
  parentBefore: (node: TreeNode) => TreeNode | null,
  put: Put,
): void {
  let owners = nodes.slice(0, tops);
  for (const node of owners) put(node, null);
  let next = owners.length;
  while (next < nodes.length) {
    const free = new FreeSlots(owners);
    const level: TreeNode[] = [];
    while (next < nodes.length && free.count > 0) {
      const group = nodes.slice(next, next + free.count);
      next += group.length;
      level.push(...group);
      for (const node of group.filter((one) => !keepsParent(one, parentBefore(one), free, put))) {
        const parent = free.near(node);
        put(node, parent);
        if (parent !== null) free.count -= 1;
      }
    }
    if (level.length === 0) {
      for (const node of nodes.slice(next)) put(node, null);
      return;
    }
    owners = level;
  }
}

function keepsParent(node: TreeNode, before: TreeNode | null, free: FreeSlots, put: Put): boolean {
  if (before === null || !free.owners.has(before) || !hasRoom(before) || node.avoids.has(before.id))
    return false;
  put(node, before);
  free.count -= 1;
  return true;
}

/** The free slots of one level, dealt out evenly. */
class FreeSlots {
  readonly owners: ReadonlySet<TreeNode>;
  count: number;
  readonly #all: Set<TreeNode>;
  readonly #byZone = new Map<string, Set<TreeNode>>();

  constructor(owners: readonly TreeNode[]) {
    this.owners = new Set(owners);
    this.#all = new Set(owners);
    this.count = owners.reduce((sum, { slots }) => sum + slots, 0);
    for (const owner of owners) {
      const ofZone = this.#byZone.get(owner.zone);
      if (ofZone === undefined) this.#byZone.set(owner.zone, new Set([owner]));
      else ofZone.add(owner);
    }
  }

  /** One that the member may have as its parent, of its zone if there is one. */
  near(node: TreeNode): TreeNode | null {
    return take(this.#byZone.get(node.zone) ?? new Set(), node) ?? take(this.#all, node);
  }
}

/** The first that fits; it goes to the end of the queue. Those without room are dropped. */
function take(queue: Set<TreeNode>, node: TreeNode): TreeNode | null {
  for (const owner of queue) {
    if (!hasRoom(owner)) {
      queue.delete(owner);
      continue;
    }
    if (node.avoids.has(owner.id)) continue;
    queue.delete(owner);
    queue.add(owner);
    return owner;
  }
  return null;
}

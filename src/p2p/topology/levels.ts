import { hasRoom, type TreeNode } from './tree-node.ts';

/** One depth of a tree. All sets keep the order in which members came: the same events, the same answers. */
interface Level {
  readonly nodes: Set<TreeNode>;
  /** Members with a free slot, by how many children they have. */
  readonly free: Shelves;
  readonly freeByZone: Map<string, Shelves>;
  /** Members without children, by slots. */
  readonly leaves: Shelves;
}

/** Members by a small number. */
type Shelves = Set<TreeNode>[];

/** The members of a tree by depth, so that free slots and leaves are found without looking at all of them. */
export class Levels {
  /** By depth; the first is empty. */
  readonly #levels: Level[] = [];

  /** Of the deepest member; 0 if there is none. */
  get depth(): number {
    return Math.max(0, this.#levels.length - 1);
  }

  /** To be taken out again before depth, zone, slots or the number of children change. */
  add(node: TreeNode): void {
    const level = this.#level(node.depth);
    level.nodes.add(node);
    if (node.children.size === 0) put(level.leaves, node.slots, node);
    if (!hasRoom(node)) return;
    put(level.free, node.children.size, node);
    const ofZone = level.freeByZone.get(node.zone) ?? [];
    level.freeByZone.set(node.zone, ofZone);
    put(ofZone, node.children.size, node);
  }

  remove(node: TreeNode): void {
    const level = this.#levels[node.depth];
    if (level === undefined || !level.nodes.delete(node)) return;
    level.leaves[node.slots]?.delete(node);
    level.free[node.children.size]?.delete(node);
    const ofZone = level.freeByZone.get(node.zone);
    ofZone?.[node.children.size]?.delete(node);
    if (ofZone?.every((shelf) => shelf.size === 0)) level.freeByZone.delete(node.zone);
    while (this.#levels.length > 0 && (this.#levels.at(-1)?.nodes.size ?? 0) === 0) this.#levels.pop();
  }

  /** Changes how many children a member has. One that is not among them is not added. */
  change(node: TreeNode, change: () => void): void {
    const isHere = this.#levels[node.depth]?.nodes.has(node) ?? false;
    if (isHere) this.remove(node);
    change();
    if (isHere) this.add(node);
  }

  /**
   * The member with a free slot that stands highest, and of those one with the fewest children; null if there is none.
   * @param zone null for any
   */
  free(zone: string | null, maxDepth: number, accepts: (node: TreeNode) => boolean): TreeNode | null {
    for (let depth = 1; depth <= Math.min(maxDepth, this.depth); depth += 1) {
      const level = this.#levels[depth];
      const shelves = zone === null ? level?.free : level?.freeByZone.get(zone);
      const found = first(shelves ?? [], accepts);
      if (found !== null) return found;
    }
    return null;
  }

  /**
   * A member without children below a depth: the deepest that has the slots that are needed, else one with as many as
   * can be had.
   */
  leafBelow(depth: number, slots: number, accepts: (node: TreeNode) => boolean): TreeNode | null {
    let best: TreeNode | null = null;
    for (let at = this.depth; at > depth; at -= 1) {
      const shelves = this.#levels[at]?.leaves ?? [];
      for (let count = shelves.length - 1; count > (best?.slots ?? -1); count -= 1) {
        const found = first([shelves[count] ?? new Set()], accepts);
        if (found === null) continue;
        best = found;
        break;
      }
      if (best !== null && best.slots >= slots) return best;
    }
    return best;
  }

  clear(): void {
    this.#levels.length = 0;
  }

  #level(depth: number): Level {
    while (this.#levels.length <= depth) {
      this.#levels.push({ nodes: new Set(), free: [], freeByZone: new Map(), leaves: [] });
    }
    return this.#levels[depth]!;
  }
}

function put(shelves: Shelves, number: number, node: TreeNode): void {
  while (shelves.length <= number) shelves.push(new Set());
  shelves[number]!.add(node);
}

function first(shelves: Shelves, accepts: (node: TreeNode) => boolean): TreeNode | null {
  for (const shelf of shelves) {
    for (const node of shelf) {
      if (accepts(node)) return node;
    }
  }
  return null;
}

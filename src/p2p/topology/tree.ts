import { alternatesOf } from './alternates.ts';
import { layOut } from './layout.ts';
import { Levels } from './levels.ts';
import { leastDepth, MAX_SLOTS } from './slots.ts';
import { hasRoom, heightOf, isWithin, type TreeMember, type TreeNode } from './tree-node.ts';

/** So much deeper than need be a tree may be, for the sake of zones, and of leaving members where they are. */
export const DEPTH_SLACK = 2;
/** Of the members that one avoids, as many as it is remembered for. */
const MAX_AVOIDED = 8;

/** Where a member stands. */
export interface TreePlace {
  /** Null: at the top. */
  readonly parent: string | null;
  /** 1 at the top. */
  readonly depth: number;
  readonly children: readonly string[];
}

/**
 * The tree of one content, as its root keeps it. Nothing here waits, reads a clock, or draws lots: the same events make the
 * same tree, in the service and in a simulator. After every event
 *
 * - each member stands at the top or has a parent in the tree, which has no more children than slots: never a cycle;
 * - the tree is at most {@link DEPTH_SLACK} levels deeper than the least depth that any tree of these members can have;
 * - at the top stand no more than `tops` members, but where there are not enough slots for all, or of those that avoid
 *   somebody.
 *
 * A newcomer goes to the highest free slot of its zone, if the bound on the depth allows it, else to the highest of all. A
 * member that goes is replaced by another one, so that its children stay where they are: at the top by one of them, which
 * has what it had; else by one of them that has none, or by a leaf from the bottom. An event takes time by depth and slots, hardly by members; only where the
 * bound would be broken all are placed anew.
 */
export class Tree {
  readonly #tops: number;
  readonly #nodes = new Map<string, TreeNode>();
  /** Of members, by slots. */
  readonly #counts: number[] = Array.from({ length: MAX_SLOTS + 1 }, () => 0);
  readonly #levels = new Levels();
  #top = new Set<TreeNode>();
  #slots = 0;
  #avoiding = 0;
  #nextOrder = 0;
  #leastDepth: number | null = 0;

  /** @param options.tops how many members belong at the top, at least 1 */
  constructor({ tops }: { readonly tops: number }) {
    this.#tops = tops;
  }

  get size(): number {
    return this.#nodes.size;
  }

  /** Levels, 0 without members. */
  get depth(): number {
    return this.#levels.depth;
  }

  /** What {@link depth} will not exceed. */
  get maxDepth(): number {
    this.#leastDepth ??= leastDepth(this.#counts, this.#tops);
    return this.#leastDepth + DEPTH_SLACK;
  }

  /** Children of the member that has most. */
  get fanOut(): number {
    let most = 0;
    for (const { children } of this.#nodes.values()) most = Math.max(most, children.size);
    return most;
  }

  /** In the order in which they joined. */
  members(): IterableIterator<string> {
    return this.#nodes.keys();
  }

  has(id: string): boolean {
    return this.#nodes.has(id);
  }

  /** Null for who is not in the tree. */
  placeOf(id: string): TreePlace | null {
    const node = this.#nodes.get(id);
    if (node === undefined) return null;
    const { parent, depth, children } = node;
    return { parent: parent?.id ?? null, depth, children: [...children].map((child) => child.id) };
  }

  memberOf(id: string): TreeMember | null {
    const node = this.#nodes.get(id);
    return node === undefined ? null : { id, zone: node.zone, slots: node.slots };
  }

  /**
   * Up to `count` members that this one may turn to when its parent fails it, the nearest first: see {@link alternatesOf}.
   */
  alternatesOf(id: string, count: number): string[] {
    const node = this.#nodes.get(id);
    return node === undefined ? [] : alternatesOf(node, this.#top, count).map((other) => other.id);
  }

  /**
   * @param keep the parent that it has already, after a restart of the root: kept if it has a free slot and the tree does not
   *   become too deep
   * @throws Error if it is in the tree
   */
  join(member: TreeMember, keep: string | null = null): void {
    if (this.#nodes.has(member.id)) throw new Error(`${member.id} is in the tree`);
    const node: TreeNode = {
      ...member,
      parent: null,
      children: new Set(),
      depth: 1,
      order: this.#nextOrder,
      avoids: new Set(),
    };
    this.#nextOrder += 1;
    this.#nodes.set(node.id, node);
    this.#count(node.slots, 1);
    const kept = this.#nodes.get(keep ?? '');
    if (kept !== undefined && hasRoom(kept) && kept.depth < this.maxDepth) this.#attach(node, kept);
    else this.#place(node);
    this.#settle();
  }

  /** A member that says so, or that has failed. Those who are not in the tree may leave, too. */
  leave(id: string): void {
    const node = this.#nodes.get(id);
    if (node === undefined) return;
    this.#nodes.delete(id);
    this.#count(node.slots, -1);
    if (node.avoids.size > 0) this.#avoiding -= 1;
    this.#vacate(node);
    this.#settle();
  }

  /** The member will not have `from` as its parent any more: if it is, the member gets another place. */
  move(id: string, from: string): void {
    const node = this.#nodes.get(id);
    if (node === undefined || id === from || !this.#nodes.has(from)) return;
    if (node.avoids.size === 0) this.#avoiding += 1;
    node.avoids.delete(from);
    node.avoids.add(from);
    const [oldest = ''] = node.avoids;
    if (node.avoids.size > MAX_AVOIDED) node.avoids.delete(oldest);
    if (node.parent?.id !== from) return;
    // With its branch, if there is a place for all of it.
    if (node.children.size === 0 || this.#parentFor(node) !== null) this.#detach(node);
    else this.#vacate(node);
    this.#place(node);
    this.#settle();
  }

  /** Whom the member avoided it may have as its parent again. */
  forgive(id: string): void {
    const node = this.#nodes.get(id);
    if (node === undefined || node.avoids.size === 0) return;
    node.avoids.clear();
    this.#avoiding -= 1;
    this.#settle();
  }

  /** The member's zone or slots are others now. Without slots it has no children any more. */
  update({ id, zone, slots }: TreeMember): void {
    const node = this.#nodes.get(id);
    if (node === undefined || (node.zone === zone && node.slots === slots)) return;
    this.#count(node.slots, -1);
    this.#count(slots, 1);
    this.#levels.remove(node);
    node.zone = zone;
    node.slots = slots;
    if (slots === 0 && node.children.size > 0) {
      this.#vacate(node);
      this.#place(node);
    } else {
      const surplus = smallestBranches(node).slice(0, Math.max(0, node.children.size - slots));
      for (const child of surplus) this.#detach(child);
      this.#levels.add(node);
      for (const child of surplus) this.#place(child);
    }
    this.#settle();
  }

  #count(slots: number, change: 1 | -1): void {
    this.#counts[slots] = (this.#counts[slots] ?? 0) + change;
    this.#slots += change * slots;
    this.#leastDepth = null;
  }

  /** Of those below the top; negative if there are fewer slots than members. */
  get #freeSlots(): number {
    return this.#slots - (this.size - this.#top.size);
  }

  /** A member without a place, with its branch, gets one. */
  #place(node: TreeNode): void {
    this.#attach(node, this.#top.size < this.#tops ? null : this.#parentFor(node));
  }

  #parentFor(node: TreeNode): TreeNode | null {
    const maxDepth = this.maxDepth - heightOf(node);
    const accepts = (other: TreeNode) => !node.avoids.has(other.id) && !isWithin(other, node);
    return this.#levels.free(node.zone, maxDepth, accepts) ?? this.#levels.free(null, maxDepth, accepts);
  }

  /** Takes a member out of its place, which another one gets. Its children stay, as far as that one has slots for them. */
  #vacate(node: TreeNode): void {
    // It is nobody's parent or heir from here on.
    this.#levels.remove(node);
    const heir = this.#heirOf(node);
    if (heir !== null) this.#vacate(heir);
    const { parent } = node;
    const children = smallestBranches(node).toReversed();
    for (const child of children) this.#unlink(child);
    this.#unlink(node);
    if (heir !== null) this.#attach(heir, parent);
    for (const child of children) {
      const stays = heir !== null && hasRoom(heir) && !child.avoids.has(heir.id);
      if (stays) this.#attach(child, heir);
      else this.#place(child);
    }
  }

  /** Null for a member without children, and where nobody may take its place. */
  #heirOf({ parent, depth, children }: TreeNode): TreeNode | null {
    if (children.size === 0) return null;
    const byAge = [...children].toSorted((a, b) => a.order - b.order);
    if (parent === null) {
      const strongest = Math.max(...byAge.map(({ slots }) => slots));
      // The first that came has most of what the top had.
      return byAge.find(({ slots }) => slots === strongest) ?? null;
    }
    const accepts = ({ avoids }: TreeNode) => !avoids.has(parent.id);
    const isFreeToRise = (child: TreeNode) => child.children.size === 0 && child.slots >= children.size - 1;
    const ownChild = byAge.find((child) => isFreeToRise(child) && accepts(child));
    return ownChild ?? this.#levels.leafBelow(depth, children.size, accepts);
  }

  #attach(node: TreeNode, parent: TreeNode | null): void {
    if (parent === null) this.#top.add(node);
    else {
      this.#levels.change(parent, () => parent.children.add(node));
    }
    node.parent = parent;
    this.#sink(node, (parent?.depth ?? 0) + 1);
  }

  /** Takes a member with its branch from its parent; it has to be attached again. */
  #detach(node: TreeNode): void {
    this.#levels.remove(node);
    this.#unlink(node);
  }

  #unlink(node: TreeNode): void {
    const { parent } = node;
    if (parent === null) this.#top.delete(node);
    else {
      this.#levels.change(parent, () => parent.children.delete(node));
    }
    node.parent = null;
  }

  /** Gives a member its depth, and with it its branch, whose depths fit each other. */
  #sink(node: TreeNode, depth: number): void {
    let level = [node];
    for (let at = depth; level.length > 0; at += 1) {
      for (const each of level) {
        this.#levels.remove(each);
        each.depth = at;
        this.#levels.add(each);
      }
      level = level.flatMap(({ children }) => [...children].filter((child) => child.depth !== at + 1));
    }
  }

  /** Makes good what an event has broken of what {@link Tree} promises. */
  #settle(): void {
    this.#takeInFromTop();
    if (this.#isSound()) return;
    this.#rebuild([...this.#top].filter(({ slots }) => slots > 0));
    if (!this.#isSound()) this.#rebuild([]);
  }

  #isSound(): boolean {
    const without = Math.max(0, this.size - this.#tops - this.#slots);
    return this.depth <= this.maxDepth && this.#top.size <= this.#tops + without + this.#avoiding;
  }

  /** Those at the top that do not belong there get places below, as far as there are slots for them. */
  #takeInFromTop(): void {
    if (this.#top.size <= this.#tops || this.#freeSlots <= 0) return;
    for (const node of [...this.#top].toSorted(bySteadiness).slice(this.#tops).reverse()) {
      const parent = this.#parentFor(node);
      if (parent === null) continue;
      this.#detach(node);
      this.#attach(node, parent);
      if (this.#freeSlots <= 0) return;
    }
  }

  /** @param remain of the top, that should stay there */
  #rebuild(remain: readonly TreeNode[]): void {
    const byStrength = (a: TreeNode, b: TreeNode) =>
      b.slots - a.slots || a.depth - b.depth || a.order - b.order;
    const staying = new Set(remain.toSorted(bySteadiness).slice(0, this.#tops));
    const others = [...this.#nodes.values()].filter((node) => !staying.has(node));
    const nodes = [...staying, ...others.toSorted(byStrength)];
    const before = new Map(nodes.map((node) => [node, node.parent]));
    this.#levels.clear();
    this.#top = new Set();
    for (const node of nodes) {
      node.children.clear();
      node.parent = null;
    }
    layOut(
      nodes,
      this.#tops,
      (node) => before.get(node) ?? null,
      (node, parent) => this.#attach(node, parent),
    );
  }
}

/** Those first that stand at the top for no other reason than that somebody has to. The sort keeps the order else. */
function bySteadiness(a: TreeNode, b: TreeNode): number {
  return Math.min(1, a.avoids.size) - Math.min(1, b.avoids.size);
}

/** The children of a member, those with few children of their own first. */
function smallestBranches({ children }: TreeNode): TreeNode[] {
  return [...children].toSorted((a, b) => a.children.size - b.children.size || b.order - a.order);
}

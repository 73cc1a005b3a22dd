import type { TreeNode } from './tree-node.ts';

/**
 * Members that one may turn to when its parent fails it, the nearest first: neighbours of its parent, then of its parent's
 * parent, and so on; at last those of its own parent's other children that joined before it. None stands below the member,
 * and only the last ones below its parent. Each is higher in the tree or joined earlier: so if all turn to alternates at
 * once, nobody waits for somebody who waits for him. Different members begin at different ones.
 */
export function alternatesOf(node: TreeNode, top: ReadonlySet<TreeNode>, count: number): TreeNode[] {
  const found: TreeNode[] = [];
  for (let branch = node.parent; branch !== null && found.length < count; branch = branch.parent) {
    const beside = branch.parent?.children ?? top;
    found.push(
      ...chosen(
        [...beside].filter((other) => other !== branch),
        node,
      ),
    );
  }
  if (node.parent !== null && found.length < count) {
    const earlier = [...node.parent.children].filter((other) => other.order < node.order);
    found.push(...chosen(earlier, node));
  }
  return found.slice(0, count);
}

/** Those of its zone first, each time from another one on. */
function chosen(others: readonly TreeNode[], node: TreeNode): TreeNode[] {
  const fit = others.filter((other) => other.slots > 0 && !node.avoids.has(other.id));
  const near = fit.filter((other) => other.zone === node.zone);
  const far = fit.filter((other) => other.zone !== node.zone);
  return [...rotated(near, node.order), ...rotated(far, node.order)];
}

function rotated(nodes: readonly TreeNode[], by: number): TreeNode[] {
  const at = nodes.length === 0 ? 0 : by % nodes.length;
  return [...nodes.slice(at), ...nodes.slice(0, at)];
}

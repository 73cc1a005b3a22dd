import type { Content } from '../mesh-protocol.ts';
import type { Member } from './members.ts';
import type { RootCounts } from './root-counts.ts';
import type { ContentTree, EdgeTotals } from './seats.ts';

/** The state of a root, for people and metrics. */
export interface MeshOverview {
  readonly members: number;
  /** Members in trees, each counted in each of its trees. */
  readonly seats: number;
  readonly trees: readonly TreeOverview[];
  /** Of the deepest tree; 0 if there is none. */
  readonly depth: number;
  readonly counts: RootCounts;
}

export interface TreeOverview extends Content {
  readonly members: number;
  readonly depth: number;
}

/** One tree, member by member, those at the top first. */
export interface MeshTree extends TreeOverview {
  readonly hosts: readonly MeshHost[];
}

export interface MeshHost {
  readonly id: string;
  readonly address: string;
  readonly zone: string;
  /** Null: it reads from the proxies. */
  readonly parent: string | null;
  readonly depth: number;
  readonly children: number;
  readonly slots: number;
  /** `suspected`: others complained, it has no children for a while; `silent`: a heartbeat is overdue. */
  readonly state: 'ok' | 'suspected' | 'silent';
  /** How often it was said to have sent wrong bytes, of any content. */
  readonly wrongBytes: number;
  /** What it received, by its own word: from its parent, from others, from the proxies (`from` null). */
  readonly edges: readonly (EdgeTotals & { readonly from: string | null })[];
}

interface MembersView {
  readonly member: (id: string) => Member | undefined;
  readonly isSuspected: (id: string) => boolean;
  readonly isSilent: (member: Member) => boolean;
}

export function overviewOf(members: number, trees: readonly ContentTree[], counts: RootCounts): MeshOverview {
  const seats = trees.reduce((sum, { tree }) => sum + tree.size, 0);
  const depth = trees.reduce((most, { tree }) => Math.max(most, tree.depth), 0);
  return { members, seats, trees: trees.map(summaryOf), depth, counts };
}

export function treeOf(of: ContentTree, view: MembersView): MeshTree {
  const hosts = [...of.seats].flatMap(([id, { edges }]): MeshHost[] => {
    const [member, place] = [view.member(id), of.tree.placeOf(id)];
    if (member === undefined || place === null) return [];
    const { address, zone } = member.announcement;
    const { parent, depth, children } = place;
    return [
      {
        ...{ id, address, zone, parent, depth, children: children.length },
        slots: of.tree.memberOf(id)?.slots ?? 0,
        state: view.isSuspected(id) ? 'suspected' : view.isSilent(member) ? 'silent' : 'ok',
        wrongBytes: member.wrongBytes,
        edges: [...edges].map(([from, totals]) => ({ from, ...totals })),
      },
    ];
  });
  return { ...summaryOf(of), hosts: hosts.toSorted((a, b) => a.depth - b.depth) };
}

function summaryOf({ content, tree }: ContentTree): TreeOverview {
  return { ...content, members: tree.size, depth: tree.depth };
}

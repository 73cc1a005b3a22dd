import fc from 'fast-check';
import { expect, test } from 'vitest';
import { digestOf } from '../../oci/digest.ts';
import { leastDepth, slotsFor } from './slots.ts';
import { DEPTH_SLACK, Tree } from './tree.ts';
import type { TreeMember } from './tree-node.ts';

type Event =
  | { readonly kind: 'join'; readonly zone: string; readonly slots: number; readonly keep: number }
  | { readonly kind: 'leave'; readonly who: number }
  | { readonly kind: 'move'; readonly who: number; readonly from: number | 'parent' }
  | { readonly kind: 'update'; readonly who: number; readonly zone: string; readonly slots: number }
  | { readonly kind: 'forgive'; readonly who: number };

const zone = fc.constantFrom('', 'a', 'b', 'c');
const slots = fc.oneof(
  { weight: 1, arbitrary: fc.nat(2) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 6 }) },
);
const who = fc.nat(1000);
const event: fc.Arbitrary<Event> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('join'), zone, slots, keep: who } as const) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('leave'), who } as const) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('move'),
      who,
      from: fc.oneof(who, fc.constant('parent')),
    } as const),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('update'), who, zone, slots } as const) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('forgive'), who } as const) },
);
const history = fc.record({
  tops: fc.integer({ min: 1, max: 3 }),
  events: fc.array(event, { maxLength: 120, size: 'max' }),
});

/** A tree, and what a test knows of its members without asking it. */
class Told {
  readonly tree: Tree;
  readonly members = new Map<string, TreeMember>();
  readonly avoiding = new Map<string, Set<string>>();
  readonly tops: number;
  #joined = 0;

  constructor(tops: number) {
    this.tops = tops;
    this.tree = new Tree({ tops });
  }

  apply(event: Event): void {
    switch (event.kind) {
      case 'join': {
        const member = { id: `m${this.#joined}`, zone: event.zone, slots: event.slots };
        this.#joined += 1;
        this.tree.join(member, event.keep % 3 === 0 ? this.#pick(event.keep) : null);
        this.members.set(member.id, member);
        break;
      }
      case 'leave': {
        const id = this.#pick(event.who);
        this.tree.leave(id);
        this.members.delete(id);
        this.avoiding.delete(id);
        break;
      }
      case 'move': {
        const id = this.#pick(event.who);
        const from = event.from === 'parent' ? this.tree.placeOf(id)?.parent : this.#pick(event.from);
        if (from === null || from === undefined || from === id || !this.members.has(id)) return;
        this.tree.move(id, from);
        this.avoiding.set(id, (this.avoiding.get(id) ?? new Set()).add(from));
        break;
      }
      case 'update': {
        const id = this.#pick(event.who);
        const { zone, slots } = event;
        this.tree.update({ id, zone, slots });
        if (this.members.has(id)) this.members.set(id, { id, zone, slots });
        break;
      }
      case 'forgive':
        this.tree.forgive(this.#pick(event.who));
        this.avoiding.delete(this.#pick(event.who));
    }
  }

  #pick(number: number): string {
    const ids = [...this.members.keys()];
    return ids[number % Math.max(1, ids.length)] ?? 'nobody';
  }
}

/** All that a tree promises, seen from outside. */
function check({ tree, tops, members, avoiding }: Told): void {
  const claim = (isSo: boolean, what: string) => {
    if (!isSo) throw new Error(`${what}: ${JSON.stringify(picture(tree))}`);
  };
  claim(
    tree.size === members.size && [...members.keys()].every((id) => tree.has(id)),
    'the members are others',
  );
  let deepest = 0;
  let atTop = 0;
  for (const { id, zone, slots } of members.values()) {
    const place = tree.placeOf(id)!;
    const member = tree.memberOf(id)!;
    claim(member.zone === zone && member.slots === slots, `${id} is another one`);
    claim(place.children.length <= slots, `${id} has too many children`);
    for (const child of place.children) claim(tree.placeOf(child)?.parent === id, `${child} is not of ${id}`);
    if (place.parent === null) {
      claim(place.depth === 1, `${id} is not at the top`);
      atTop += 1;
    } else {
      const above = tree.placeOf(place.parent);
      claim(above?.children.includes(id) ?? false, `${id} is an orphan`);
      // So whoever goes up comes to the top: there is no cycle.
      claim(above?.depth === place.depth - 1, `${id} is not below its parent`);
    }
    deepest = Math.max(deepest, place.depth);
  }
  claim(tree.depth === deepest, 'the depth is another one');
  const counts = Array.from({ length: 7 }, () => 0);
  for (const { slots } of members.values()) counts[slots]! += 1;
  claim(deepest <= leastDepth(counts, tops) + DEPTH_SLACK, 'too deep');
  const totalSlots = [...members.values()].reduce((sum, { slots }) => sum + slots, 0);
  const withoutSlot = Math.max(0, members.size - tops - totalSlots);
  claim(atTop <= tops + withoutSlot + avoiding.size, 'too many at the top');
}

function picture(tree: Tree): object[] {
  return [...tree.members()].map((id) => ({ id, ...tree.placeOf(id), alternates: tree.alternatesOf(id, 3) }));
}

test('after any events there is no cycle, no orphan, no member with too many children, and no needless depth', () => {
  fc.assert(
    fc.property(history, ({ tops, events }) => {
      const told = new Told(tops);
      for (const each of events) {
        told.apply(each);
        check(told);
      }
    }),
    { numRuns: 150 },
  );
});

test('the same events make the same tree', () => {
  fc.assert(
    fc.property(history, ({ tops, events }) => {
      const [one, other] = [new Told(tops), new Told(tops)];
      for (const each of events) one.apply(each);
      for (const each of events) other.apply(each);
      expect(picture(one.tree)).toEqual(picture(other.tree));
    }),
    { numRuns: 50 },
  );
});

test('who will not have a parent any more gets another one, or reads at the top', () => {
  fc.assert(
    fc.property(history, ({ tops, events }) => {
      const told = new Told(tops);
      for (const each of events) {
        told.apply(each);
        if (each.kind !== 'move') continue;
        for (const [id, avoided] of told.avoiding) {
          if (avoided.size > 8) continue;
          const parent = told.tree.placeOf(id)?.parent ?? null;
          if (parent !== null) expect([...avoided]).not.toContain(parent);
        }
      }
    }),
    { numRuns: 100 },
  );
});

test('alternates stand outside of the own branch, and if all turn to them nobody waits in a circle', () => {
  fc.assert(
    fc.property(history, ({ tops, events }) => {
      const { tree, apply } = bound(new Told(tops));
      for (const each of events) apply(each);
      const joined = new Map([...tree.members()].map((id, index) => [id, index]));
      const rank = (id: string) => tree.placeOf(id)!.depth * 10_000 + joined.get(id)!;
      for (const id of tree.members()) {
        const { parent } = tree.placeOf(id)!;
        for (const other of tree.alternatesOf(id, 3)) {
          expect(other).not.toBe(parent);
          expect(rank(other)).toBeLessThan(rank(id));
          expect(wayUp(tree, other)).not.toContain(id);
        }
      }
    }),
    { numRuns: 100 },
  );
});

test('fan-out, depth and the proxies are spared: 10,000 equal members stand as close as they can', () => {
  const tree = new Tree({ tops: 1 });
  for (let index = 0; index < 10_000; index += 1) tree.join({ id: `m${index}`, zone: '', slots: 4 });
  // 1 + 4 + ... + 4^6 = 5461, and one level more.
  expect(tree.depth).toBe(8);
  for (let index = 0; index < 10_000; index += 3) tree.leave(`m${index}`);
  expect(tree.size).toBe(6666);
  expect(tree.depth).toBeLessThanOrEqual(tree.maxDepth);
  const tops = [...tree.members()].filter((id) => tree.placeOf(id)?.parent === null);
  expect(tops).toHaveLength(1);
});

test('a zone is entered by few: most members have a parent of their own', () => {
  const tree = new Tree({ tops: 1 });
  const zones = ['a', 'b', 'c', 'd'];
  const zoneOf = (index: number) => zones[digestOf(`host ${index}`).charCodeAt(7) % 4]!;
  for (let index = 0; index < 1000; index += 1) tree.join({ id: `m${index}`, zone: zoneOf(index), slots: 4 });
  const between = [...tree.members()].filter((id) => {
    const { parent } = tree.placeOf(id)!;
    return parent !== null && tree.memberOf(parent)?.zone !== tree.memberOf(id)?.zone;
  });
  expect(between.length).toBeLessThan(20);
  expect(tree.depth).toBeLessThanOrEqual(tree.maxDepth);
});

test('slots follow the announced upload, from one to the greatest fan-out', () => {
  const limits = { bytesPerSecondPerChild: 10_000_000, maxFanOut: 4 };
  expect(
    [1, 9_999_999, 10_000_000, 29_000_000, 40_000_000, 10 ** 12].map((bytes) => slotsFor(bytes, limits)),
  ).toEqual([1, 1, 1, 2, 4, 4]);
  expect(slotsFor(10 ** 12, { ...limits, maxFanOut: 1000 })).toBe(64);
});

test('the least depth is that of a tree with the strongest at the top', () => {
  expect(leastDepth([], 1)).toBe(0);
  expect(leastDepth([0, 5], 1)).toBe(5);
  expect(leastDepth([0, 5], 5)).toBe(1);
  expect(leastDepth([0, 0, 7], 1)).toBe(3);
  expect(leastDepth([0, 4, 0, 0, 1], 1)).toBe(2);
  // Nobody has a slot: all read at the top.
  expect(leastDepth([9], 1)).toBe(1);
});

/** Members a to i, three levels of three slots. */
function family(): Tree {
  const tree = new Tree({ tops: 1 });
  for (const id of 'abcdefghi') tree.join({ id, zone: '', slots: 3 });
  return tree;
}

test('when a member in the middle is gone another one takes its place, and nobody else is moved', () => {
  const tree = family();
  expect(tree.placeOf('b')).toEqual({ parent: 'a', depth: 2, children: ['e', 'h'] });
  tree.leave('b');
  expect(tree.placeOf('e')).toEqual({ parent: 'a', depth: 2, children: ['h'] });
  for (const [child, parent] of ['ca', 'da', 'fc', 'gd', 'ic'])
    expect(tree.placeOf(child!)?.parent).toBe(parent);
});

test('the place of one whose children have children gets a leaf from the bottom', () => {
  const tree = new Tree({ tops: 1 });
  for (let index = 0; index < 40; index += 1) tree.join({ id: `m${index}`, zone: '', slots: 3 });
  const { children } = tree.placeOf('m1')!;
  const grandchildren = children.flatMap((child) => tree.placeOf(child)!.children);
  tree.leave('m1');
  const heirs = new Set(children.map((child) => tree.placeOf(child)!.parent));
  const [heir] = heirs;
  expect(heirs.size).toBe(1);
  expect(tree.placeOf(heir!)).toMatchObject({ parent: 'm0', depth: 2 });
  const moved = grandchildren.filter((id) => id !== heir && !children.includes(tree.placeOf(id)!.parent!));
  expect(moved).toEqual([]);
});

test('when the top is gone one of its children takes its place: it has most of what the top had', () => {
  const tree = family();
  tree.leave('a');
  expect(tree.placeOf('b')).toMatchObject({ parent: null, depth: 1 });
  expect(tree.placeOf('c')?.parent).toBe('b');
  expect(tree.placeOf('d')?.parent).toBe('b');
});

test('a member without slots has no children, and what it had stands elsewhere', () => {
  const tree = family();
  tree.update({ id: 'b', zone: '', slots: 0 });
  expect(tree.placeOf('b')).toMatchObject({ children: [] });
  for (const id of ['e', 'h']) expect(tree.placeOf(id)?.parent).not.toBe('b');
  expect(tree.depth).toBe(3);
});

test('a child of a parent that is alone has nobody else: it reads at the top until it forgives', () => {
  const tree = new Tree({ tops: 1 });
  tree.join({ id: 'a', zone: '', slots: 2 });
  tree.join({ id: 'b', zone: '', slots: 2 });
  tree.move('b', 'a');
  expect(tree.placeOf('b')).toMatchObject({ parent: null });
  tree.forgive('b');
  expect(tree.placeOf('b')).toMatchObject({ parent: 'a' });
});

test('who is at the top because it avoids others has the others not put below it', () => {
  const tree = new Tree({ tops: 1 });
  for (const id of ['a', 'b', 'c']) tree.join({ id, zone: '', slots: 2 });
  tree.move('c', 'a');
  tree.move('c', 'b');
  expect(tree.placeOf('c')).toMatchObject({ parent: null, children: [] });
  tree.leave('a');
  expect(tree.placeOf('b')).toMatchObject({ parent: null });
});

test('after a restart members that keep their parents make the tree that there was', () => {
  const before = family();
  const after = new Tree({ tops: 1 });
  const byDepth = [...'ihgfedcba'].toSorted((a, b) => before.placeOf(a)!.depth - before.placeOf(b)!.depth);
  for (const id of byDepth) after.join({ id, zone: '', slots: 3 }, before.placeOf(id)!.parent);
  for (const id of 'abcdefghi') expect(after.placeOf(id)?.parent, id).toBe(before.placeOf(id)?.parent);
});

function bound(told: Told) {
  return { tree: told.tree, apply: (each: Event) => told.apply(each) };
}

function wayUp(tree: Tree, id: string): string[] {
  const way: string[] = [];
  for (let at: string | null = id; at !== null; at = tree.placeOf(at)?.parent ?? null) way.push(at);
  return way;
}

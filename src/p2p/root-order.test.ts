import { expect, test } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { rootOrder } from './root-order.ts';

const ROOTS = ['http://a.example:5100', 'http://b.example:5100', 'https://c.example'];
const TABLES = Array.from({ length: 3000 }, (_, index) => digestOf(`table ${index}`));

test('all hosts ask the same roots in the same order, however they list them', () => {
  for (const table of TABLES.slice(0, 50)) {
    expect(rootOrder(ROOTS.toReversed(), table)).toEqual(rootOrder(ROOTS, table));
  }
  const [table] = TABLES;
  const slashed = rootOrder(
    ROOTS.map((root) => `${root}/`),
    table!,
  );
  expect(slashed.map((root) => root.slice(0, -1))).toEqual(rootOrder(ROOTS, table!));
});

test('each root is the first for about its share of the contents', () => {
  for (const root of ROOTS) {
    const share = TABLES.filter((table) => rootOrder(ROOTS, table)[0] === root).length / TABLES.length;
    expect(share).toBeGreaterThan(0.3);
    expect(share).toBeLessThan(0.37);
  }
});

test('when a root is gone only its own contents move, to the next in their order', () => {
  const [gone, ...others] = ROOTS;
  for (const table of TABLES) {
    expect(rootOrder(others, table)).toEqual(rootOrder(ROOTS, table).filter((root) => root !== gone));
  }
});

import { expect, test } from 'vitest';
import { Bell } from './bell.ts';
import { RingOwner } from './ring-owner.ts';
import { ringBytes, SlotRing, type SlotWork } from './slot-ring.ts';

const SHAPE = { slots: 3, inputBytes: 10, outputBytes: 20 };

/** Two threads' views of the same ring, in which outputs are inputs twice over. */
function rings(work: SlotWork = (input, output) => input.copy(output) + input.copy(output, input.length)) {
  const memory = new SharedArrayBuffer(128 + ringBytes(SHAPE));
  return [new SlotRing(memory, 128, SHAPE, work), new SlotRing(memory, 128, SHAPE, work)] as const;
}

function fill(ring: SlotRing, index: number, text: string): void {
  ring.fill(index, ring.input(index).write(text));
}

test('outputs come in the order of their inputs, also in many more than there are slots', () => {
  const [ring, other] = rings();
  const outputs: string[] = [];
  const owner = new RingOwner(ring, new Bell(), (input, output) => outputs.push(`${input}:${output}`));
  for (let index = 0; index < 20; index++) {
    owner.fill(owner.next().write(`<${index}>`));
    if (index % 3 === 1) expect(other.workOnOne(1)).toBe(true);
  }
  owner.drain();
  expect(outputs).toEqual(Array.from({ length: 20 }, (_, index) => `<${index}>:<${index}><${index}>`));
});

test('who helps takes what the owner needs first', () => {
  const [ring, other] = rings();
  ring.begin();
  for (const index of [0, 1, 2]) fill(ring, index, 'x');
  ring.free(0, 1);
  fill(ring, 0, 'y');
  expect(other.workOnOne(1)).toBe(true);
  expect([0, 1, 2].map((index) => ring.result(index) !== null)).toEqual([false, true, false]);
});

test('what a thread had taken that is no more is put back', () => {
  const [ring, other] = rings(() => {
    // The thread that works here dies now, as far as the others can see.
    other.abandon(3);
    return 0;
  });
  ring.begin();
  fill(ring, 0, 'x');
  other.workOnOne(3);
  expect(ring.result(0)).toBeNull();
  expect(ring.workOnOne(0)).toBe(true);
});

test('work that fails is an error for the owner, whoever did it', () => {
  const [ring, other] = rings(() => {
    throw new RangeError('no memory');
  });
  const owner = new RingOwner(ring, new Bell(), () => {});
  owner.fill(owner.next().write('x'));
  expect(other.workOnOne(1)).toBe(true);
  expect(() => owner.drain()).toThrow('a thread failed in its work');
});

test('a ring that was left in the middle begins anew', () => {
  const [ring, other] = rings();
  ring.begin();
  for (const index of [0, 1]) fill(ring, index, 'old');
  other.workOnOne(1);
  const outputs: string[] = [];
  const owner = new RingOwner(ring, new Bell(), (_input, output) => outputs.push(String(output)));
  owner.fill(owner.next().write('new'));
  owner.drain();
  expect(outputs).toEqual(['newnew']);
  expect(other.workOnOne(1)).toBe(false);
});

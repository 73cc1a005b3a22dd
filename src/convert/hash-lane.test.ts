import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { randomBytes } from '../../test/support/random-bytes.ts';
import { DigestState } from '../format/digest-state.ts';
import { Bell } from './bell.ts';
import { HASH_LANE_BYTES, HashLane } from './hash-lane.ts';

/** Two threads' views of the same lane. */
function lanes() {
  const memory = new SharedArrayBuffer(64 + HASH_LANE_BYTES);
  return [new HashLane(memory, 64), new HashLane(memory, 64)] as const;
}

const pieces = Array.from({ length: 30 }, (_, index) => randomBytes(index * 1000, index + 1));

test.each(['sha256', 'sha512'] as const)(
  '%s is that of all pieces in order, whoever hashes them',
  (algorithm) => {
    const [lane, other] = lanes();
    const expected = createHash(algorithm).update(Buffer.concat(pieces)).digest('hex');
    for (const helpsAt of [[], [0, 1, 2, 9, 20], pieces.map((_, index) => index)]) {
      const open = lane.open(algorithm, new Bell());
      for (const [index, piece] of pieces.entries()) {
        open.put(piece.copy(open.next()));
        if (helpsAt.includes(index)) expect(other.hash(1)).toBe(true);
      }
      expect(open.digest()).toBe(`${algorithm}:${expected}`);
      open.close();
    }
  },
);

test('what was put stays as it is until the next space is asked for', () => {
  const [lane] = lanes();
  const open = lane.open('sha256', new Bell());
  const space = open.next();
  space.write('piece');
  open.put(5);
  expect(space.toString('latin1', 0, 5)).toBe('piece');
  expect(open.next()).not.toBe(space);
  open.close();
});

test('a lane that was left in the middle begins anew', () => {
  const [lane, other] = lanes();
  const left = lane.open('sha256', new Bell());
  left.put(left.next().write('old'));
  left.close();
  expect(other.hash(1)).toBe(false);
  const open = lane.open('sha256', new Bell());
  open.put(open.next().write('new'));
  expect(open.digest()).toBe(`sha256:${createHash('sha256').update('new').digest('hex')}`);
  open.close();
});

test('a thread that dies while it hashes is an error for the owner, once', () => {
  const [lane, other] = lanes();
  const open = lane.open('sha256', new Bell());
  open.put(open.next().write('x'));
  const { update } = DigestState.prototype;
  DigestState.prototype.update = () => other.abandon(1);
  try {
    other.hash(1);
  } finally {
    DigestState.prototype.update = update;
  }
  expect(() => open.digest()).toThrow('a thread failed in hashing');
  open.close();
  const again = lane.open('sha256', new Bell());
  again.put(again.next().write('x'));
  expect(again.digest()).toContain('sha256:');
  again.close();
});

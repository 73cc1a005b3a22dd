import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { randomBytes } from '../../test/support/random-bytes.ts';
import { DigestState } from './digest-state.ts';

test.each(['sha256', 'sha512'] as const)(
  '%s is the same as that of Node.js, whoever adds to it',
  (algorithm) => {
    const bytes = randomBytes(100_000, 3);
    const state = DigestState.create(algorithm);
    state.update(bytes.subarray(0, 1));
    DigestState.at(state.address).update(bytes.subarray(1, 70_000));
    state.update(bytes.subarray(70_000));
    expect(state.finish(algorithm)).toBe(createHash(algorithm).update(bytes).digest('hex'));
    state.free();
  },
);

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SlotPlacer } from './erofs-slots.ts';

const BLOCK_BYTES = 4096;
const small = fc.integer({ min: 2, max: 128 });
const units = fc.oneof(
  { weight: 10, arbitrary: small },
  { weight: 1, arbitrary: fc.integer({ min: 129, max: 3000 }) },
);
const slots = fc.array(
  units.map((count) => count * 32),
  { maxLength: 500 },
);

describe('the placing of inodes', () => {
  it('gives each its own room, within one block if it fits into one, else from the start of one', () => {
    fc.assert(
      fc.property(slots, (sizes) => {
        const placer = new SlotPlacer();
        const taken = sizes
          .map((size) => ({ start: placer.place(size), size }))
          .sort((a, b) => a.start - b.start);
        for (const [index, { start, size }] of taken.entries()) {
          expect(start % 32).toBe(0);
          const before = taken[index - 1];
          if (before !== undefined) expect(start).toBeGreaterThanOrEqual(before.start + before.size);
          if (size > BLOCK_BYTES) expect(start % BLOCK_BYTES).toBe(0);
          else expect(start % BLOCK_BYTES).toBeLessThanOrEqual(BLOCK_BYTES - size);
          expect(start + size).toBeLessThanOrEqual(placer.blocks * BLOCK_BYTES);
        }
      }),
    );
  });

  it('wastes less than a twentieth on files of mixed sizes', () => {
    const placer = new SlotPlacer();
    let used = 0;
    for (let index = 0; index < 20_000; index++) {
      const size = 64 + ((index * 7919) % 127) * 32;
      placer.place(size);
      used += size;
    }
    expect(used / (placer.blocks * BLOCK_BYTES)).toBeGreaterThan(0.95);
  });

  it('keeps what comes together within 64 blocks', () => {
    const placer = new SlotPlacer();
    for (let index = 0; index < 5000; index++) {
      const start = placer.place(96 + ((index * 7919) % 125) * 32);
      expect(placer.blocks - start / BLOCK_BYTES).toBeLessThanOrEqual(65);
    }
  });
});

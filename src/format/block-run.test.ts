import { describe, expect, it } from 'vitest';
import { BlockRun } from './block-run.ts';

function record(): { run: BlockRun; emitted: [number, string][] } {
  const emitted: [number, string][] = [];
  const run = new BlockRun((block, bytes) => emitted.push([block, bytes.toString()]), 4, 3);
  return { run, emitted };
}

describe('a run of blocks', () => {
  it('goes out as one piece as long as the blocks are neighbours and there is room', () => {
    const { run, emitted } = record();
    for (const number of [0, 1, 5, 6, 7, 8]) run.block(number).fill(`${number}`);
    run.flush();
    expect(emitted).toEqual([
      [0, '00001111'],
      [5, '555566667777'],
      [8, '8888'],
    ]);
  });

  it('has zeroes where nothing was written, also when its buffer was used before', () => {
    const { run, emitted } = record();
    run.block(1).fill('x');
    run.block(9).write('a');
    run.block(9).write('b', 1);
    run.flush();
    expect(emitted).toEqual([
      [1, 'xxxx'],
      [9, 'ab\0\0'],
    ]);
  });

  it('does not go back', () => {
    const { run } = record();
    run.block(4);
    run.block(5);
    expect(() => run.block(4)).toThrow('too late');
  });

  it('is nothing when no block was asked for', () => {
    const { run, emitted } = record();
    run.flush();
    expect(emitted).toEqual([]);
  });
});

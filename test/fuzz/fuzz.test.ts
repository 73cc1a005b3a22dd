import { expect, test } from 'vitest';
import { fuzzTarget } from './runner.ts';
import { TARGET_NAMES } from './targets.ts';

/** As many inputs as take about a second; the same ones each time. `test/fuzz/run.ts` tries others. */
const INPUTS: Readonly<Record<string, number>> = {
  tar: 6000,
  layer: 250,
  gzip: 1500,
  zfile: 10_000,
  'zfile-integrity': 15_000,
  lsmt: 8000,
  'image-layout': 800,
};
const USUAL_INPUTS = 3000;

test.each(TARGET_NAMES)(
  '%s: mutated inputs end in an error with a code or are read; nothing hangs, crashes or takes much memory',
  async (target) => {
    const to = INPUTS[target] ?? USUAL_INPUTS;
    const outcome = await fuzzTarget({ target, seed: 'ci', from: 0, to, seconds: 120 });
    expect(outcome.failure).toBeNull();
    expect(outcome.inputs).toBe(to);
    // Else the mutations would be too weak, or too strong to get anywhere.
    const refused = to - outcome.accepted;
    expect(Math.min(refused, outcome.accepted)).toBeGreaterThan(to / 200);
  },
);

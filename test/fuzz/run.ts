/** node test/fuzz/run.ts [--seconds N] [--target T] [--seed S] [--input I]: longer fuzzing on demand. */
import process from 'node:process';
import { parseArgs } from 'node:util';
import { fuzzTarget } from './runner.ts';
import { TARGET_NAMES } from './targets.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    target: { type: 'string', multiple: true, default: [...TARGET_NAMES] },
    seed: { type: 'string', default: String(Date.now()) },
    input: { type: 'string' },
  },
});

let failures = 0;
for (const target of values.target) {
  const from = Number(values.input ?? 0);
  const to = values.input === undefined ? Number.MAX_SAFE_INTEGER : from + 1;
  const { seed } = values;
  const outcome = await fuzzTarget({ target, seed, from, to, seconds: Number(values.seconds) });
  const { inputs, accepted, refused, failure } = outcome;
  console.log(`${target}: ${inputs} inputs, ${accepted} accepted, refused ${JSON.stringify(refused)}`);
  if (failure === null) continue;
  failures++;
  console.log(`  FAILED, again with: --target ${target} --seed ${seed} --input ${failure.iteration}`);
  console.log(`  ${failure.reason.replaceAll('\n', '\n  ')}`);
}
process.exitCode = failures === 0 ? 0 : 1;

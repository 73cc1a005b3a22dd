import { join } from 'node:path';
import process from 'node:process';
import { expect, test } from 'vitest';
import { run } from '../../test/support/processes.ts';

const MODULE = join(import.meta.dirname, 'young-generation.ts');
/** Makes objects of which many live for a while, and tells how large the part of the heap for new ones is then. */
const PROGRAM = `
const { keepYoungGenerationSmall } = await import(process.argv[1]);
if (process.argv[2] === 'small') keepYoungGenerationSmall();
const kept = [];
for (let at = 0; at < 2_000_000; at++) kept[at % 100_000] = { at };
const { getHeapSpaceStatistics } = await import('node:v8');
console.log(getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space').space_size);
`;

test('the part of the heap for new objects stays small where it would grow', async () => {
  const sizeBytes = async (...how: string[]) => {
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', PROGRAM, MODULE, ...how]);
    return Number(stdout);
  };
  expect(await sizeBytes('small')).toBeLessThanOrEqual(4 * 2 ** 20);
  expect(await sizeBytes()).toBeGreaterThan(8 * 2 ** 20);
});

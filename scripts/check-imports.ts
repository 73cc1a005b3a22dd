/**
 * Runs the import-direction check and makes sure that it looked at every module: the checker passes silently
 * when it cannot parse TypeScript.
 */
import { globSync } from 'node:fs';
import { cruise, format } from 'dependency-cruiser';
import extractOptions from 'dependency-cruiser/config-utl/extract-depcruise-options';

const sources = globSync('src/**/*.ts');
const options = await extractOptions('./.dependency-cruiser.mjs');
const { output } = await cruise(['src', 'test', 'demo', 'bench'], options);
if (typeof output === 'string') throw new Error('the import check returned text where a result was expected');

const seen = new Set(output.modules.map((module) => module.source));
const missed = sources.filter((source) => !seen.has(source));
const checked = output.modules.filter((module) => module.source.startsWith('src/'));
const edges = checked.reduce((sum, module) => sum + module.dependencies.length, 0);
if (missed.length > 0 || edges === 0) {
  console.error(`import check: ${missed.length} of ${sources.length} modules were not looked at`, missed);
  process.exit(1);
}
if (output.summary.error > 0) {
  const report = await format(output, { outputType: 'err' });
  console.error(report.output);
  process.exit(1);
}
console.log(`import check: ${checked.length} modules, ${edges} imports, all downward`);

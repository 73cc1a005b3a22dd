#!/usr/bin/env node
// Plain JavaScript that Node.js 14 can parse: an old one must reach the message below, and must not reach the native
// modules, which crash it.
import { readFileSync } from 'node:fs';
import process from 'node:process';

const { engines } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
const needed = engines.node.replace('>=', '');

if (isOlder(process.versions.node, needed)) {
  console.error(
    `dadi needs Node.js ${needed} or newer, and this is ${process.versions.node} (${process.execPath}).\n` +
      'Install a newer Node.js (https://nodejs.org), or put one first in PATH: in a checkout of dadi-mirror,\n' +
      '  PATH=$PWD/node_modules/.bin:$PATH dadi ...',
  );
  process.exit(1);
}
await import('../dist/cli/main.js');

/**
 * @param {string} version
 * @param {string} minimum
 */
function isOlder(version, minimum) {
  const have = version.split('.').map(Number);
  const want = minimum.split('.').map(Number);
  const differs = want.findIndex((number, index) => have[index] !== number);
  return differs !== -1 && (have[differs] ?? 0) < (want[differs] ?? 0);
}

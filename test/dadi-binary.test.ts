import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const BINARY = resolve(import.meta.dirname, '../bin/dadi.mjs');

/** Runs the binary under a Node.js that calls itself another version. */
function runUnder(version: string) {
  const pretend = `Object.defineProperty(process.versions, 'node', { value: '${version}' })`;
  const args = ['--import', `data:text/javascript,${encodeURIComponent(pretend)}`, BINARY, '--version'];
  return spawnSync(process.execPath, args, { encoding: 'utf8' });
}

describe('the dadi binary', () => {
  it.each(['14.8.0', '20.20.2', '22.9.0', '22.22.1'])('says what to do on Node.js %s', (version) => {
    const { status, stderr, stdout } = runUnder(version);
    expect(status).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toContain(`dadi needs Node.js 22.22.2 or newer, and this is ${version}`);
    expect(stderr).not.toContain('at ');
  });

  it.each(['22.22.2', '22.23.0', '24.0.0', '100.0.0'])('does not complain about Node.js %s', (version) => {
    expect(runUnder(version).stderr).not.toContain('needs Node.js');
  });
});

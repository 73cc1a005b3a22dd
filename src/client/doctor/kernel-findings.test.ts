import process from 'node:process';
import { expect, test, vi } from 'vitest';
import { kernelFindings } from './kernel-findings.ts';

test.each([
  ['4.19.0-1', { kernel: 'missing', 'restart under load': 'limited' }],
  ['5.5.9', { kernel: 'limited', 'restart under load': 'limited' }],
  ['5.10.0-1-cloud', { kernel: 'limited', 'restart under load': 'limited' }],
  ['6.9.1', { kernel: 'limited', 'restart under load': 'good' }],
  ['6.12.0', { kernel: 'good', 'restart under load': 'good' }],
  ['7.0.0-rc1', { kernel: 'good', 'restart under load': 'good' }],
])('of Linux %s it is said what is missing', async (release, expected) => {
  const findings = await kernelFindings(release);
  const states = Object.fromEntries(findings.map(({ name, state }) => [name, state]));
  expect(states).toMatchObject(expected);
  for (const { state, better } of findings) expect(better === null).toBe(state === 'good');
});

test('a Node.js that has lost its pipe handle is said to be what is missing', async () => {
  const nodeFinding = async () => (await kernelFindings('6.12.0')).find(({ name }) => name === 'Node.js');
  expect(await nodeFinding()).toMatchObject({ state: 'good' });
  const gone = vi.spyOn(process as unknown as { binding: () => unknown }, 'binding').mockReturnValue({});
  try {
    expect(await nodeFinding()).toMatchObject({
      state: 'missing',
      better: expect.stringContaining('Node.js'),
    });
  } finally {
    gone.mockRestore();
  }
});

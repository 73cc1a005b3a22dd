import { expect, test } from 'vitest';
import { type AttachHost, inspectHost } from '../attach/choose-method.ts';
import { kernelVersion } from '../attach/kernel-version.ts';
import type { Finding } from './finding.ts';
import { kernelFindings } from './kernel-findings.ts';

/** Of this machine with another kernel. */
async function findingsOf(release: string, other: Partial<AttachHost> = {}): Promise<Map<string, Finding>> {
  const host = { ...(await inspectHost()), kernel: kernelVersion(release), ...other };
  return new Map((await kernelFindings(release, host)).map((finding) => [finding.name, finding]));
}

test.each([
  ['4.19.0-1', { kernel: 'missing', 'restart under load': 'limited' }],
  ['5.5.9', { kernel: 'limited', 'restart under load': 'limited' }],
  ['5.10.0-1-cloud', { kernel: 'limited', 'restart under load': 'limited' }],
  ['6.9.1', { kernel: 'limited', 'restart under load': 'good' }],
  ['6.12.0', { kernel: 'good', 'restart under load': 'good' }],
  ['7.0.0-rc1', { kernel: 'good', 'restart under load': 'good' }],
])('of Linux %s it is said what is missing', async (release, expected) => {
  const findings = await findingsOf(release);
  for (const [name, state] of Object.entries(expected)) expect(findings.get(name)?.state).toBe(state);
  for (const { state, better } of findings.values()) expect(better === null).toBe(state === 'good');
});

test('a Node.js that has lost its pipe handle is said to be what is missing, unless kernel NBD takes the place of FUSE', async () => {
  const host = { isRoot: true, hasFuse: true, hasNbd: false };
  expect((await findingsOf('6.12.0', host)).get('Node.js')).toMatchObject({ state: 'good' });
  const found = await findingsOf('6.12.0', { ...host, canServeFuse: false });
  expect(found.get('mounts')).toMatchObject({ state: 'missing', better: expect.stringContaining('Node.js') });
  expect(found.get('Node.js')).toMatchObject({ state: 'missing' });
  const withNbd = await findingsOf('6.12.0', { ...host, canServeFuse: false, hasNbd: true });
  expect(withNbd.get('mounts')).toMatchObject({
    state: 'good',
    found: expect.stringContaining('kernel NBD'),
  });
  expect(withNbd.get('Node.js')).toMatchObject({ state: 'limited' });
});

test('it is said how images are mounted, and why so', async () => {
  const host = { isRoot: true, hasFuse: true, canServeFuse: true, hasNbd: false };
  expect((await findingsOf('6.12.0', host)).get('mounts')).toMatchObject({
    state: 'good',
    found: 'EROFS straight from a file, ext4 by a loop device on a file',
  });
  expect((await findingsOf('6.1.0', { ...host, hasNbd: true })).get('mounts')).toMatchObject({
    found: 'EROFS by kernel NBD, ext4 by kernel NBD',
    means: expect.stringContaining('Linux 6.1 mounts EROFS from block devices only'),
  });
});

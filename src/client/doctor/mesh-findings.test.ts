import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { parseNodeConfig } from '../node/node-config.ts';
import { meshFindings } from './mesh-findings.ts';

const work = mkdtempSync(join(tmpdir(), 'dadi-doctor-'));
afterAll(() => rmSync(work, { recursive: true }));

function configOf(mesh?: object) {
  return parseNodeConfig({ proxies: ['http://127.0.0.1:5100'], ...(mesh && { mesh }) });
}

test('of a host that takes no part in the mesh nothing is said', async () => {
  expect(await meshFindings(configOf())).toEqual([]);
});

test('what keeps a host out of the mesh is said with its file, and what would help', async () => {
  const secretFile = join(work, 'secret');
  expect(await meshFindings(configOf({ secretFile }))).toMatchObject([
    { name: 'mesh', state: 'missing', found: expect.stringContaining(secretFile) },
  ]);
  writeFileSync(secretFile, 'short');
  expect(await meshFindings(configOf({ secretFile }))).toMatchObject([
    { state: 'missing', found: expect.stringContaining('5 bytes') },
  ]);
  writeFileSync(secretFile, 'no certificate, but long enough');
  expect(await meshFindings(configOf({ secretFile }))).toMatchObject([{ state: 'good', better: null }]);
  const tls = { certificate: secretFile, key: secretFile, ca: secretFile };
  expect(await meshFindings(configOf({ tls }))).toMatchObject([{ state: 'missing' }]);
});

test('roots are asked whether they are there', async () => {
  const root = createServer((_incoming, outgoing) => outgoing.writeHead(404).end());
  await once(root.listen(0, '127.0.0.1'), 'listening');
  const { port } = root.address() as AddressInfo;
  const roots = [`http://127.0.0.1:${port}`, 'http://127.0.0.1:9'];
  try {
    const mesh = { enabled: true, insecure: true, listen: '127.0.0.1:0', roots };
    expect(await meshFindings(configOf(mesh))).toMatchObject([
      { name: 'mesh', state: 'good' },
      { name: `root 127.0.0.1:${port}`, state: 'good' },
      { name: 'root 127.0.0.1:9', state: 'limited' },
    ]);
  } finally {
    root.close();
  }
});

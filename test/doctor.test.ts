import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Finding } from '../src/client/doctor/finding.ts';
import { requireCapability } from './support/capabilities.ts';
import { run } from './support/processes.ts';

const MAIN = join(import.meta.dirname, '../src/cli/main.ts');
const CRI = 'plugins."io.containerd.grpc.v1.cri".containerd';

const work = mkdtempSync(join(tmpdir(), 'dadi-doctor-'));
const socket = join(work, 'dadi.sock');
const containerdConfig = join(work, 'containerd.toml');
const proxy = createServer((_incoming, outgoing) => outgoing.writeHead(401).end());

beforeAll(async () => {
  await once(proxy.listen(0, '127.0.0.1'), 'listening');
});

afterAll(() => {
  proxy.close();
  rmSync(work, { recursive: true });
});

function flags(): string[] {
  const { port } = proxy.address() as AddressInfo;
  return [
    ...['doctor', '--json', '--proxy', `http://127.0.0.1:${port}`, '--proxy', 'http://127.0.0.1:9'],
    ...['--socket', socket, '--state-dir', join(work, 'state'), '--containerd-config', containerdConfig],
  ];
}

function findingsOf(stdout: string): Map<string, Finding> {
  const { findings } = JSON.parse(stdout) as { findings: Finding[] };
  return new Map(findings.map((finding) => [finding.name, finding]));
}

function configureContainerd(cri: string): void {
  const ours = `[proxy_plugins.mine]\ntype = "snapshot"\naddress = "${socket}"`;
  writeFileSync(containerdConfig, `version = 2\n[${CRI}]\n${cri}\n${ours}\n`);
}

describe.skipIf(!requireCapability('root', 'fuse', 'erofs', 'containerd'))('dadi doctor', () => {
  test('finds containerd with our snapshotter, the proxy that answers, and the one that does not', async () => {
    configureContainerd('snapshotter = "mine"\ndisable_snapshot_annotations = false');
    const found = findingsOf((await run(process.execPath, [MAIN, ...flags()])).stdout);
    expect(found.get("containerd's configuration")).toMatchObject({ state: 'good' });
    expect(found.get('containerd')?.found).toContain('containerd');
    const proxies = [...found.values()].filter(({ name }) => name.startsWith('proxy '));
    expect(proxies.map(({ state }) => state)).toEqual(['good', 'limited']);
    for (const name of ['rights', 'mounts', '/dev/fuse', 'EROFS', 'overlayfs', 'cache', 'snapshots']) {
      expect(found.get(name)).toMatchObject({ state: 'good', better: null });
    }
  });

  test('says what of containerd is set in a way that makes every pull a whole one', async () => {
    configureContainerd('snapshotter = "mine"\ndisable_snapshot_annotations = true');
    const found = findingsOf((await run(process.execPath, [MAIN, ...flags()])).stdout);
    const finding = found.get("containerd's configuration");
    expect(finding).toMatchObject({ state: 'limited', better: 'disable_snapshot_annotations = false' });
  });

  test('ends with exit code 1 where something is missing, and says what', async () => {
    const script = 'setpriv --bounding-set -sys_admin --inh-caps -sys_admin "$@"; echo "exit code $?"';
    const { stdout } = await run('sh', ['-c', script, 'sh', process.execPath, MAIN, ...flags()]);
    const [json = '', code] = stdout.split(/(?=exit code)/);
    expect(code).toBe('exit code 1\n');
    expect(findingsOf(json).get('rights')).toMatchObject({ state: 'missing' });
  });
});

import { mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { requireCapability } from './support/capabilities.ts';
import { golden } from './support/golden.ts';
import { goldenTree } from './support/golden-tree.ts';
import { makeOverlaybdLayout } from './support/overlaybd-layout.ts';
import { run } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';
import { TestProxy } from './support/test-proxy.ts';
import { diffTrees, readTree } from './support/tree.ts';

const MAIN = join(import.meta.dirname, '../src/cli/main.ts');
const LAYERS = ['layer1.zstd-4k.tar.obd', 'layer2.lz4-4k.tar.obd', 'layer3.lz4-4k.obd'];

let root: string;
let mountPoint: string;
let registry: Registry | null;
let proxy: TestProxy | null;

beforeEach(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'dadi-stock-')));
  mountPoint = join(root, 'mnt');
  mkdirSync(mountPoint);
  registry = null;
  proxy = null;
});

afterEach(async () => {
  await dadi('umount', '--lazy', mountPoint).catch(() => {});
  await proxy?.remove();
  await registry?.stop();
  rmSync(root, { recursive: true });
});

function dadi(command: 'mount' | 'umount', ...args: string[]) {
  const cache = command === 'mount' ? ['--cache-dir', join(root, 'cache')] : [];
  return run(process.execPath, [MAIN, command, '--run-dir', join(root, 'run'), ...cache, ...args]);
}

describe.skipIf(!requireCapability('root', 'fuse', 'loop', 'registry', 'skopeo'))(
  'an image of the stock overlaybd tools in a registry',
  () => {
    test('mounts through a proxy, and shows what it holds', async () => {
      const blobs = LAYERS.map((name) => golden(`ext4/${name}`).bytes());
      await makeOverlaybdLayout(join(root, 'layout'), blobs, { stock: true });
      registry = await startRegistry({ dir: join(root, 'registry') });
      const flags = ['copy', '--preserve-digests', '--dest-tls-verify=false'];
      const to = `docker://${registry.host}/lib/stock:1`;
      await run('skopeo', ['--insecure-policy', ...flags, `oci:${join(root, 'layout')}:converted`, to]);
      proxy = await TestProxy.start({ upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }] });

      await dadi('mount', '--proxy', proxy.url, 'reg.example/lib/stock:1', mountPoint);
      const expected = goldenTree(join(import.meta.dirname, 'golden/ext4/tree-1-3.json'));
      expect(diffTrees(expected, await readTree(mountPoint))).toEqual([]);
      const stats = JSON.parse((await dadi('umount', '--json', mountPoint)).stdout);
      expect(stats.bytesFetched).toBeGreaterThan(0);
      expect(stats.bytesFetched).toBeLessThanOrEqual(stats.imageBytes);
    });
  },
);

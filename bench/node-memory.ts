/**
 * Memory of the node daemon, as it is installed (built JavaScript): at rest, and for each image that is mounted and read.
 *
 *   npm run build && node bench/node-memory.ts [IMAGES]
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatTable } from '../src/cli/output.ts';
import { askDaemon } from '../src/client/node/admin-client.ts';
import { chainIds } from '../src/oci/chain-id.ts';
import { digestOf } from '../src/oci/digest.ts';
import { FakeRegistry } from '../test/support/fake-registry.ts';
import { run, start } from '../test/support/processes.ts';
import { randomBytes } from '../test/support/random-bytes.ts';
import { SnapshotsClient } from '../test/support/snapshots-client.ts';
import { pullLabels } from '../test/support/snapshotter.ts';
import { END_BLOCKS, tarMember } from '../test/support/tar-blocks.ts';
import { TestProxy } from '../test/support/test-proxy.ts';

const MAIN = join(import.meta.dirname, '../dist/cli/main.js');
/** As docs/node.md has it in the systemd unit. */
const ENVIRONMENT = { NODE_OPTIONS: '--max-semi-space-size=1', MALLOC_ARENA_MAX: '2' };
const FILE_BYTES = 1024 * 1024;
/** Garbage is collected when the daemon has nothing else to do. */
const REST_MS = 10_000;

const images = Number(process.argv[2] ?? 20);
const scratch = mkdtempSync(join(tmpdir(), 'dnm-'));
const upstream = await FakeRegistry.start();
const proxy = await TestProxy.start({ upstreams: [{ name: 'reg.example', url: upstream.url }] });
const config = join(scratch, 'node.json');
const runDirectory = join(scratch, 'r');
writeFileSync(
  config,
  JSON.stringify({
    proxies: [proxy.url],
    stateDirectory: join(scratch, 's'),
    runDirectory,
    mirror: { listen: '127.0.0.1:0' },
    conversionWaitMs: 60_000,
  }),
);
const adminSocket = join(runDirectory, 'node.sock');
const daemon = await start(process.execPath, [MAIN, 'node', '--config', config], {
  env: ENVIRONMENT,
  logPath: join(scratch, 'log'),
  readyWhen: async () => (await askDaemon(adminSocket, 'GET', '/readyz')) !== null,
});
const client = new SnapshotsClient(join(runDirectory, 'snapshotter.sock'));
try {
  const rows: string[][] = [];
  const measure = async (count: number) => {
    await sleep(REST_MS);
    rows.push([String(count), ...memoryOf(daemon.pid)]);
  };
  await measure(0);
  for (let image = 1; image <= images; image++) {
    await mountAndRead(image);
    if (image === 1 || image === images) await measure(image);
  }
  console.log(formatTable(['IMAGES', 'RSS kB', 'PRIVATE kB', 'FILES kB'], rows));
} finally {
  client.close();
  await daemon.stop();
  await run(process.execPath, [MAIN, 'node', 'stop', '--force', '--config', config]);
  await proxy.remove();
  await upstream.stop();
  rmSync(scratch, { recursive: true });
}

/** Resident: all, what is this process's alone, and what is of files (Node.js itself above all). */
function memoryOf(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  return ['VmRSS', 'RssAnon', 'RssFile'].map(
    (key) => new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? '?',
  );
}

async function mountAndRead(image: number): Promise<void> {
  const layers = [1, 2, 3].map((layer) =>
    Buffer.concat([
      tarMember({ path: `file${layer}` }, randomBytes(FILE_BYTES, 10 * image + layer)),
      ...Array.from({ length: 1_000 }, (_, file) =>
        tarMember({ path: `small${layer}-${file}` }, 'x'.repeat(2_000)),
      ),
      END_BLOCKS,
    ]),
  );
  const { digest } = upstream.putImage(layers, String(image));
  let parent = '';
  for (const chainId of chainIds(layers.map((bytes) => digestOf(bytes)))) {
    const labels = {
      ...pullLabels(chainId),
      'containerd.io/snapshot/cri.image-ref': `reg.example/lib/a:${image}`,
      'containerd.io/snapshot/cri.manifest-digest': digest,
    };
    // Refused: it is there already.
    await client.prepare(`pull ${chainId}`, parent, labels).catch(() => {});
    const [found] = await client.list(`labels."containerd.io/snapshot.ref"==${chainId}`);
    parent = found?.name ?? '';
  }
  const [mount] = await client.prepare(`container ${image}`, parent);
  const lower =
    mount?.options.find((option) => option.startsWith('lowerdir='))?.slice('lowerdir='.length) ?? '';
  for (const layer of [1, 2, 3]) await readFile(join(lower, `file${layer}`));
}

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { askDaemon } from '../src/client/node/admin-client.ts';
import type { MountStatus, NodeStatus } from '../src/client/node/node-status.ts';
import { requireCapability } from './support/capabilities.ts';
import { DadiNode } from './support/dadi-node.ts';
import { FakeRegistry } from './support/fake-registry.ts';
import { FaultyRelay } from './support/faulty-relay.ts';
import { imageDirectory, pullLazily } from './support/lazy-pull.ts';
import { run } from './support/processes.ts';
import { randomBytes } from './support/random-bytes.ts';
import { SnapshotsClient } from './support/snapshots-client.ts';
import { TestProxy } from './support/test-proxy.ts';
import { putTwoFileImage, type TwoFileImage } from './support/two-file-image.ts';

const MAIN = join(import.meta.dirname, '../src/cli/main.ts');
const HOSTS = 3;
const FILE_BYTES = 6 * 1024 * 1024;
const WAIT = { timeout: 60_000, interval: 100 };

let images = 0;

describe.skipIf(!requireCapability('root', 'fuse', 'erofs'))('hosts in a mesh', () => {
  let scratch: string;
  let upstream: FakeRegistry;
  let proxy: TestProxy;
  let relay: FaultyRelay;
  const nodes: DadiNode[] = [];

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dnm-'));
    const secretFile = join(scratch, 'secret');
    writeFileSync(secretFile, 'a secret that only these hosts know\n', { mode: 0o600 });
    upstream = await FakeRegistry.start();
    proxy = await TestProxy.start({ upstreams: [{ name: 'reg.example', url: upstream.url }] });
    relay = await FaultyRelay.start(proxy.url);
    for (let host = 1; host <= HOSTS; host++) {
      const config = {
        conversionWaitMs: 60_000,
        mirror: { listen: `127.0.0.${host}:0` },
        mesh: { secretFile, listen: `127.0.0.${host}:0`, advertise: `127.0.0.${host}`, roots: [proxy.url] },
      };
      nodes.push(await DadiNode.start({ directory: join(scratch, `${host}`), proxies: [relay.url], config }));
    }
  });

  afterAll(async () => {
    for (const node of nodes) await node.remove();
    await relay?.stop();
    await proxy?.remove();
    await upstream?.stop();
    expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(scratch);
    rmSync(scratch, { recursive: true });
  });

  const statusOf = async (node: DadiNode) =>
    (await askDaemon(join(node.runDirectory, 'node.sock'), 'GET', '/status')) as NodeStatus;

  const makeImage = () => putTwoFileImage(upstream, ++images, FILE_BYTES);

  /** Has a host mount the image, as containerd does after a pull; the directory of the image's files. */
  async function mounted(node: DadiNode, image: TwoFileImage): Promise<string> {
    const client = new SnapshotsClient(node.socketPath);
    try {
      const parent = await pullLazily(client, image);
      return imageDirectory(await client.prepare(`container of ${image.manifestDigest}`, parent));
    } finally {
      client.close();
    }
  }

  async function mountOf(node: DadiNode, { layers }: TwoFileImage): Promise<MountStatus> {
    const { mounts } = await statusOf(node);
    return mounts.find(({ chainId }) => chainId === layers.at(-1)?.chainId)!;
  }

  /** Waits until the host has another one above it in both trees of an image. */
  async function hasParents(node: DadiNode): Promise<void> {
    await vi.waitFor(async () => {
      const { mesh } = await statusOf(node);
      const open = mesh!.trees.filter(({ openings }) => openings > 0);
      expect(open.length).toBeGreaterThan(0);
      expect(open.map(({ place }) => place?.parent != null)).toEqual(open.map(() => true));
    }, WAIT);
  }

  test('what one host has read comes to the others from it, is right, and is asked of the proxy no more', async () => {
    const image = makeImage();
    const [first, ...others] = nodes as [DadiNode, DadiNode, DadiNode];
    const directory = await mounted(first, image);
    expect((await readFile(join(directory, 'file1'))).equals(image.files[0]!)).toBe(true);
    expect(await mountOf(first, image)).toMatchObject({ bytesFromMesh: 0 });
    for (const node of others) {
      const there = await mounted(node, image);
      await hasParents(node);
      expect((await readFile(join(there, 'file1'))).equals(image.files[0]!)).toBe(true);
      const { bytesFetched, bytesFromMesh } = await mountOf(node, image);
      expect(bytesFromMesh).toBeGreaterThan(FILE_BYTES / 4);
      expect(bytesFetched).toBeLessThan(FILE_BYTES);
    }
    const { mesh } = await statusOf(first);
    expect(mesh!.counts.sentBytes).toBeGreaterThan(FILE_BYTES / 4);
  });

  test('what a host has is read from it while no proxy answers; when it is killed, the proxy gives what is missing', async () => {
    const image = makeImage();
    const [first, second] = nodes as [DadiNode, DadiNode];
    const directories = [await mounted(first, image), await mounted(second, image)] as const;
    expect((await readFile(join(directories[0], 'file1'))).equals(image.files[0]!)).toBe(true);
    await hasParents(second);
    relay.fault = () => ({ kind: 'status', status: 503 });
    expect((await readFile(join(directories[1], 'file1'))).equals(image.files[0]!)).toBe(true);
    relay.fault = () => null;
    await first.kill();
    expect((await readFile(join(directories[1], 'file2'))).equals(image.files[1]!)).toBe(true);
    await first.start();
    expect((await readFile(join(directories[0], 'file2'))).equals(image.files[1]!)).toBe(true);
  });

  test('a blob that the proxy is fetching goes from host to host as it comes; who loses the one above goes on', async () => {
    const blob = randomBytes(6 * 1024 * 1024, 4711);
    const digest = upstream.putBlob(blob);
    const half = blob.length / 2;
    const isHeld = Promise.withResolvers<void>();
    upstream.intercept = ({ method, url = '' }, response) => {
      if (method !== 'GET' || !url.endsWith(digest)) return false;
      response.writeHead(200, { 'content-length': blob.length });
      response.write(blob.subarray(0, half));
      void isHeld.promise.then(() => response.end(blob.subarray(half)));
      return true;
    };
    const came = nodes.map(() => 0);
    const pulls = nodes.map(async (node, at) => {
      const { mirrorUrl } = await statusOf(node);
      const response = await fetch(`${mirrorUrl}v2/lib/a/blobs/${digest}?ns=reg.example`);
      const pieces: Uint8Array[] = [];
      for await (const piece of response.body!) {
        pieces.push(piece);
        came[at]! += piece.length;
      }
      return Buffer.concat(pieces).equals(blob);
    });
    const endings = Promise.allSettled(pulls);
    await vi.waitFor(() => expect(came).toEqual([half, half, half]), WAIT);
    const answers = () =>
      proxy.logged.filter(({ path }) => String(path).includes(`/v2/lib/a/blobs/${digest}`));
    // A host alone is sent all of that; with little processor time, others ask for some of it too.
    expect(answers().reduce((sum, { bytes }) => sum + Number(bytes), 0)).toBeLessThan(2 * half);
    const places = await Promise.all(
      nodes.map(
        async (node) => (await statusOf(node)).mesh!.trees.find((tree) => tree.blob === digest)?.place,
      ),
    );
    const top = places.findIndex((place) => place?.parent === null);
    await nodes[top]!.kill();
    isHeld.resolve();
    const results = (await endings).map((end) => end.status === 'fulfilled' && end.value);
    expect(results).toEqual(nodes.map((_, at) => at !== top));
    await nodes[top]!.start();
    expect(upstream.count('GET', digest)).toBe(1);
  });

  test('a root draws the trees, and a host tells of its part', async () => {
    const image = makeImage();
    for (const node of nodes) {
      const directory = await mounted(node, image);
      expect((await readFile(join(directory, 'file1'))).equals(image.files[0]!)).toBe(true);
    }
    const dadi = (...args: readonly string[]) => run(process.execPath, [MAIN, ...args]);
    const flags = ['--proxy', proxy.adminUrl, '--through', proxy.url];
    const reference = `reg.example/lib/a@${image.manifestDigest}`;
    await vi.waitFor(async () => {
      const { stdout } = await dadi('mesh', reference, ...flags);
      expect(stdout.match(/^layer sha256:\w{64} \(3 hosts, depth \d\)$/gm)).toHaveLength(2);
      expect(stdout).toMatch(/^proxies\n└─ 127\.0\.0\.\d:\d+ {2}[\d.]+ MB in [\d.]+ ms/m);
    }, WAIT);
    const trees = JSON.parse((await dadi('mesh', reference, ...flags, '--json')).stdout);
    expect(trees).toHaveLength(2);
    expect(trees[0].hosts).toHaveLength(HOSTS);
    expect((await dadi('mesh', ...flags)).stdout).toMatch(/\n\d hosts, \d+ trees, depth \d\n$/);
    const { stdout } = await dadi('node', 'status', '--config', join(nodes[1]!.directory, 'node.json'));
    expect(stdout).toMatch(/^mesh +127\.0\.0\.2:\d+, \d+ trees, at depth \d and above, [\d.]+ MB received/m);
    const metrics = await run('curl', [
      ...['-s', '--unix-socket', join(nodes[1]!.runDirectory, 'node.sock')],
      'http://dadi/metrics',
    ]);
    const names = Array.from(
      metrics.stdout.matchAll(/^# TYPE (dadi_node_mesh_\w+)/gm),
      ([, name = '']) => name,
    );
    expect(names.length).toBeGreaterThan(5);
    const documented = readFileSync(join(import.meta.dirname, '../docs/mesh.md'), 'utf8');
    for (const name of names) expect(documented).toContain(`\`${name}\``);
    expect(metrics.stdout).toMatch(/^dadi_node_mesh_received_bytes_total [1-9]/m);
  });
});

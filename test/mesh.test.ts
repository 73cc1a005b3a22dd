import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { askDaemon } from '../src/client/node/admin-client.ts';
import type { NodeStatus } from '../src/client/node/node-status.ts';
import type { MeshHost } from '../src/p2p/root/mesh-overview.ts';
import { busyboxImage, randomFile } from './support/busybox-image.ts';
import { requireCapability } from './support/capabilities.ts';
import type { ClusterImage } from './support/cluster.ts';
import type { ClusterNetwork } from './support/cluster-network.ts';
import type { LazyHost } from './support/lazy-host.ts';
import { leftovers } from './support/leftovers.ts';
import { putMade } from './support/made-image.ts';
import { MeshCluster } from './support/mesh-cluster.ts';

const FILES = 4;
const FILE_BYTES = 1_500_000;
/** In each zone. */
const HOSTS = [3, 2];
const TREES = { maxFanOut: 2, heartbeatMs: 500, bytesPerSecondPerChild: 12_500_000 };
const RATE = { rate: '60mbit' };
const SLOW_RATE = { rate: '600kbit' };
const WAIT = { timeout: 120_000, interval: 50 };
const PATIENCE_MS = 240_000;
const NEEDED = ['root', 'fuse', 'erofs', 'registry', 'skopeo', 'busybox', 'iproute2'] as const;

interface TestImage extends ClusterImage {
  /** What a program prints that has read all files, and they are right. */
  readonly sums: string;
}

let images = 0;

describe.skipIf(!requireCapability(...NEEDED))('hosts that start one image at once', () => {
  let scratch: string;
  let mesh: MeshCluster;
  let network: ClusterNetwork;
  let hosts: LazyHost[];

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dadi-mt-'));
    mesh = await MeshCluster.start({ zones: 2, trees: TREES, uploadBytesPerSecond: 125_000_000 });
    network = mesh.cluster.network;
    const places = [];
    for (const [zone, count] of HOSTS.entries()) {
      const names = Array.from({ length: count }, (_, at) => `h${zone}-${at}`);
      places.push(...(await network.addHosts(names, zone)));
    }
    for (const place of places) await network.shape(place, RATE);
    hosts = await mesh.startHosts(places);
  });

  afterAll(async () => {
    const directory = mesh?.cluster.directory;
    await mesh?.remove();
    rmSync(scratch, { recursive: true });
    if (directory !== undefined) expect(leftovers(directory)).toEqual([]);
  });

  /** An image that no host has seen. */
  async function newImage(): Promise<TestImage> {
    images++;
    const made = busyboxImage(images, { randomFiles: FILES, randomBytes: FILE_BYTES });
    const layout = join(scratch, `${images}`);
    await putMade(layout, '1', made);
    const image = await mesh.cluster.addImage(`oci:${layout}:1`, `lib/app${images}`);
    const sums = made.contents.map((sum, at) => `${sum}  ${randomFile(at)}`).join('\n');
    return { ...image, sums };
  }

  const patience = () => AbortSignal.timeout(PATIENCE_MS);

  /** Has each host start a container that reads all files. */
  async function readAll(readers: readonly LazyHost[], image: TestImage): Promise<void> {
    await Promise.all(readers.map((host) => readOn(host, image)));
  }

  async function readOn(host: LazyHost, image: TestImage): Promise<void> {
    const files = Array.from({ length: FILES }, (_, at) => randomFile(at));
    const { output } = await host.run(image, ['/bin/sha256sum', ...files], patience());
    expect(output).toBe(image.sums);
  }

  /** Has hosts start a container that reads next to nothing, one after the other: so they stand in the trees. */
  async function joinAll(members: readonly LazyHost[], image: TestImage): Promise<void> {
    for (const host of members) await host.run(image, ['/bin/true'], patience());
  }

  async function statusOf({ node }: LazyHost): Promise<NodeStatus> {
    return (await askDaemon(join(node.runDirectory, 'node.sock'), 'GET', '/status')) as NodeStatus;
  }

  /** The root's word about each host. */
  async function seatsOf(
    image: ClusterImage,
    members: readonly LazyHost[],
  ): Promise<(MeshHost | undefined)[]> {
    const tree = await mesh.treeOf(image);
    return members.map(({ host }) => tree?.hosts.find(({ address }) => address === mesh.addressOf(host)));
  }

  /** Until so much of the image's files has come over a host's link since. */
  async function hasReceived({ host }: LazyHost, part: number, sinceBytes: number): Promise<void> {
    await vi.waitFor(async () => {
      const { receivedBytes } = await network.traffic(host);
      expect(receivedBytes - sinceBytes).toBeGreaterThan(part * FILES * FILE_BYTES);
    }, WAIT);
  }

  async function receivedBy({ host }: LazyHost): Promise<number> {
    return (await network.traffic(host)).receivedBytes;
  }

  test('all of them read what is right, and the proxy sends each chunk about once', async () => {
    const image = await newImage();
    const before = await network.traffic(mesh.cluster.proxy.host);
    await readAll(hosts, image);
    const { sentBytes } = await network.traffic(mesh.cluster.proxy.host);
    // Random bytes: what each reads is about what the layers hold.
    expect(sentBytes - before.sentBytes).toBeLessThan(2 * image.layerBytes);
    const seats = await seatsOf(image, hosts);
    expect(seats.filter((seat) => seat?.parent === null)).toHaveLength(1);
  });

  test('a host is killed that others get from: they read on at others, and it reads on when it is back', async () => {
    const image = await newImage();
    await joinAll(hosts, image);
    const seats = await seatsOf(image, hosts);
    const at = seats.findIndex((seat) => seat?.parent != null && seat.children > 0);
    const inner = hosts[at]!;
    const before = await receivedBy(inner);
    const reading = readAll(hosts, image);
    await hasReceived(inner, 0.3, before);
    await inner.node.kill();
    const others = hosts.filter((host) => host !== inner);
    await vi.waitFor(async () => {
      const left = await seatsOf(image, hosts);
      expect(left[at]).toBeUndefined();
      expect(left.filter((seat) => seat !== undefined)).toHaveLength(others.length);
    }, WAIT);
    await inner.node.start();
    await reading;
  });

  test('the root is killed in the middle: all read on, and the trees come back when it does', async () => {
    const image = await newImage();
    await joinAll(hosts.slice(0, -1), image);
    const before = await receivedBy(hosts[0]!);
    const reading = readAll(hosts.slice(0, -1), image);
    await hasReceived(hosts[0]!, 0.2, before);
    await mesh.root.kill();
    await reading;
    // One that has no place is not kept waiting for it.
    await readAll(hosts.slice(-1), image);
    await mesh.root.start();
    await vi.waitFor(async () => {
      const seats = await seatsOf(image, hosts);
      expect(seats.every((seat) => seat !== undefined)).toBe(true);
      expect(seats.filter((seat) => seat?.parent === null)).toHaveLength(1);
    }, WAIT);
  });

  test('no proxy is there any more when one of them has all: the others get all from it', async () => {
    const image = await newImage();
    const [first, ...others] = hosts as [LazyHost, ...LazyHost[]];
    await readOn(first, image);
    await joinAll(others, image);
    await mesh.cluster.proxy.kill();
    try {
      await readAll(others, image);
    } finally {
      await mesh.cluster.proxy.start();
    }
  });

  test('a zone is cut off in the middle: it reads on when it is connected again, and the others at once', async () => {
    const image = await newImage();
    const near = hosts.filter(({ host }) => host.zone === 0);
    const far = hosts.filter(({ host }) => host.zone !== 0);
    await joinAll(hosts, image);
    const before = await receivedBy(far[0]!);
    const readingFar = readAll(far, image);
    await hasReceived(far[0]!, 0.2, before);
    await network.setZoneConnected(1, false);
    try {
      await readAll(near, image);
    } finally {
      await network.setZoneConnected(1, true);
    }
    await readingFar;
  });

  test('a host that sends wrong bytes is left and shown by the root: nobody reads anything wrong', async () => {
    const image = await newImage();
    const liar = (await network.addHosts(['liar'], 0))[0]!;
    const lying = await mesh.startLiar(liar, image);
    const seat = async () =>
      (await mesh.treeOf(image))?.hosts.find(({ address }) => address === mesh.addressOf(liar));
    try {
      expect(await seat()).toMatchObject({ parent: null, wrongBytes: 0 });
      await readAll(hosts, image);
      const { wrongBytes, children } = (await seat())!;
      expect(wrongBytes).toBeGreaterThan(0);
      expect(children).toBe(0);
      const counts = await Promise.all(hosts.map(async (host) => (await statusOf(host)).mesh!.counts));
      expect(counts.reduce((sum, { wrongChunks }) => sum + wrongChunks, 0)).toBeGreaterThan(0);
    } finally {
      await lying.stop();
    }
  });

  test('the host at the top has a link a hundred times slower: the others do not wait for it', async () => {
    const image = await newImage();
    await joinAll(hosts, image);
    const seats = await seatsOf(image, hosts);
    const slow = hosts[seats.findIndex((seat) => seat?.parent === null)]!;
    const others = hosts.filter((host) => host !== slow);
    await network.shape(slow.host, SLOW_RATE);
    let hasSlow = false;
    const readingSlow = readOn(slow, image).then(() => {
      hasSlow = true;
    });
    try {
      await readAll(others, image);
      expect(hasSlow).toBe(false);
    } finally {
      await network.shape(slow.host, RATE);
      await readingSlow;
    }
  });
});

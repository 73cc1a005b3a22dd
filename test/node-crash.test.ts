import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { busyboxImage, randomFile } from './support/busybox-image.ts';
import { requireCapability } from './support/capabilities.ts';
import type { ContainerResult, RunningContainer } from './support/cri/cri-containerd.ts';
import { NodeStack, PAUSE, scratchDirectory } from './support/node-stack.ts';

const canRun = requireCapability('root', 'containerd', 'runc', 'registry', 'fuse', 'erofs', 'busybox');

const FILES = 9;
const IMAGE = busyboxImage(1, { randomFiles: FILES, randomBytes: 1_500_000 });

let stack: NodeStack<'lib/data:1'>;
let image: string;
let pod: string;
let container: RunningContainer;
/** Counts down, so that what is read next was not fetched ahead either. */
let file = FILES;

const read = (at: number, from = container): Promise<ContainerResult> =>
  from.exec('/bin/sha256sum', randomFile(at));
const content = (at: number): ContainerResult => ({
  exitCode: 0,
  output: `${IMAGE.contents[at]}  ${randomFile(at)}\n`,
});

/** Begins to read the next file, and resolves when what is asked of the proxy does not come. */
async function beginRead(): Promise<Promise<ContainerResult>[]> {
  stack.cable.stallAfter(0);
  const reading = read(--file);
  await vi.waitFor(() => expect(stack.cable.stalled).toBeGreaterThan(0), { timeout: 60_000, interval: 20 });
  // In an array: who awaits this function is not to wait for the read.
  return [reading];
}

describe.skipIf(!canRun)('containers go on when the node daemon', () => {
  beforeAll(async () => {
    stack = await NodeStack.start({ scratch: scratchDirectory(), images: { 'lib/data:1': IMAGE } });
    await stack.convert(PAUSE, 'lib/data:1');
    image = stack.reference('lib/data:1');
    await stack.containerd.pull(image);
    pod = await stack.containerd.runPod();
    container = await stack.containerd.startContainer(pod, image, '/bin/sleep', '10000');
  });

  beforeEach(async () => {
    stack.cable.mend();
    // One test that fails is enough.
    if (!stack.node.isRunning) await stack.node.start();
  });

  afterAll(async () => {
    stack?.cable.mend();
    await stack?.remove();
  });

  test('is killed while they read: they wait for the next one, and get the right bytes', async () => {
    const mounts = stack.node.mounts();
    const name = { exitCode: 0, output: 'top 1\n' };
    expect(await container.exec('/bin/cat', '/etc/name')).toEqual(name);
    const [reading] = await beginRead();
    await stack.node.kill();
    // The kernel has it cached.
    expect(await container.exec('/bin/cat', '/etc/name')).toEqual(name);
    stack.cable.mend();
    await stack.node.start();
    expect(await reading).toEqual(content(file));
    expect(await read(--file)).toEqual(content(file));
    expect(stack.node.mounts()).toEqual(mounts);
  });

  test('is replaced by another one while they read, as for an upgrade', async () => {
    const mounts = stack.node.mounts();
    const [reading] = await beginRead();
    await stack.node.stop();
    expect(stack.node.mounts()).toEqual(mounts);
    stack.cable.mend();
    await stack.node.start();
    expect(await reading).toEqual(content(file));
    expect(await read(--file)).toEqual(content(file));
  });

  test('stays and containerd is restarted, or both are', async () => {
    await stack.containerd.stop();
    await stack.containerd.start();
    expect(await read(--file)).toEqual(content(file));
    await stack.containerd.stop();
    await stack.node.kill();
    await stack.node.start();
    await stack.containerd.start();
    expect(await read(--file)).toEqual(content(file));
    const next = await stack.containerd.run(pod, image, '/bin/sha256sum', randomFile(file));
    expect(next).toEqual(content(file));
  });

  test('is restarted and no proxy is there: what was read before is read again, also by new containers', async () => {
    await read(--file);
    stack.cable.cut();
    await stack.node.kill();
    // The kernel does not have it any more: only the disk does.
    writeFileSync('/proc/sys/vm/drop_caches', '3');
    await stack.startNode();
    expect(await read(file)).toEqual(content(file));
    const other = await stack.containerd.startContainer(pod, image, '/bin/sleep', '10000');
    expect(await read(FILES - 1, other)).toEqual(content(FILES - 1));
    await other.remove();
  });

  test('finds no proxy: reads of what is not there fail after a while, and succeed when the proxy is back', async () => {
    await stack.node.stop();
    await stack.node.start({ readTimeoutMs: 1000 });
    stack.cable.cut();
    expect(await read(--file)).toEqual({
      exitCode: 1,
      output: expect.stringMatching(/Input\/output error|I\/O error/),
    });
    expect(await read(FILES - 1)).toEqual(content(FILES - 1));
    stack.cable.mend();
    await vi.waitFor(async () => expect(await read(file)).toEqual(content(file)), {
      timeout: 120_000,
      interval: 200,
    });
  });
});
